"""How far a version's answers are from those of the one before: one number from 0 to 1 per task, over golden inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from polytask.model.answers import answer
from polytask.model.encoding import Input, InputEncoder
from polytask.model.tasks import Kind, Task
from polytask.model_store.manifest import Manifest
from polytask.service.backends.forward import Run
from polytask.service.versions.served import TaskDrift

Told = Mapping[str, Any]
"""An answer as `dataclasses.asdict` gives it."""


def task_drifts(
    run: Run, tasks: Sequence[Task], encoder: InputEncoder, before: Manifest, tolerances: Mapping[str, float]
) -> dict[str, TaskDrift]:
    """The shift of each task in `tolerances`: the farthest that an answer to its golden inputs of `before` has moved.

    A task that is of another kind now, or reads pairs where it read single texts, has moved by 1.
    """
    ids = {task.name: task_id for task_id, task in enumerate(tasks)}
    known = {task.name: task for task in before.tasks}
    farthest = dict.fromkeys(tolerances, 0.0)
    for golden in before.goldens:
        if golden.task in farthest:
            task_id = ids[golden.task]
            far = _drift_on_example(
                run, task_id, tasks[task_id], known[golden.task], encoder, golden.input, golden.answer
            )
            farthest[golden.task] = max(farthest[golden.task], far)
    return {name: TaskDrift(round(far, 6), tolerances[name], far > tolerances[name]) for name, far in farthest.items()}


def answer_drift(task: Task, before: Told, after: Told) -> float:
    """How far an answer of `task` has moved, from 0 to 1.

    Classification and multiple choice: the probability that now lies elsewhere, half the sum of all differences; a label
    that is not there has none. Multilabel and ranking: the largest difference of a label's or a candidate's score.
    Regression: the difference as a share of the task's range. Tagging: one minus F1 of the entities, equal by label
    and place. Span: one minus F1 of the characters.
    """
    match task.kind:
        case Kind.CLASSIFICATION:
            far = sum(_differences(before["scores"], after["scores"])) / 2
        case Kind.MULTIPLE_CHOICE:
            pairs = zip(before["scores"], after["scores"], strict=True)
            far = sum(abs(one - other) for one, other in pairs) / 2
        case Kind.MULTILABEL:
            far = max(_differences(before["scores"], after["scores"]))
        case Kind.RANKING:
            far = max(_differences(_by_candidate(before), _by_candidate(after)))
        case Kind.REGRESSION:
            assert task.value_range is not None, "a regression has a range"
            least, most = task.value_range
            far = abs(before["value"] - after["value"]) / (most - least)
        case Kind.TAGGING:
            one, other = _entities(before), _entities(after)
            far = 1 - _f1(len(one & other), len(one), len(other))
        case Kind.SPAN:
            common = min(before["end"], after["end"]) - max(before["start"], after["start"])
            far = 1 - _f1(max(0, common), *(told["end"] - told["start"] for told in (before, after)))
    return float(min(1.0, far))


def _drift_on_example(
    run: Run, task_id: int, task: Task, before: Task, encoder: InputEncoder, item: Input, told: Told
) -> float:
    if (task.kind, task.pair) != (before.kind, before.pair):
        return 1.0
    (encodings,) = encoder.encode(task, [item])
    logits = run([task_id] * len(encodings), encodings)
    return answer_drift(before, told, asdict(answer(task, item, encodings, logits)))


def _differences(before: Mapping[Any, float], after: Mapping[Any, float]) -> list[float]:
    return [abs(before.get(key, 0.0) - after.get(key, 0.0)) for key in {**before, **after}]


def _by_candidate(told: Told) -> dict[int, float]:
    return {candidate["index"]: candidate["score"] for candidate in told["ranking"]}


def _entities(told: Told) -> set[tuple[str, int, int]]:
    return {(entity["label"], entity["start"], entity["end"]) for entity in told["entities"]}


def _f1(common: int, one: int, other: int) -> float:
    """1 where both are empty."""
    return 2 * common / (one + other) if one + other else 1.0
