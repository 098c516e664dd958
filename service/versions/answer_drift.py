"""Answer drift: how far a version's answers are from those of the version before, from 0 to 1 per task, on golden inputs."""

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

AnswerValues = Mapping[str, Any]
"""An answer as `dataclasses.asdict` returns it."""


def task_drifts(
    run: Run, tasks: Sequence[Task], encoder: InputEncoder, before: Manifest, tolerances: Mapping[str, float]
) -> dict[str, TaskDrift]:
    """The drift of each task in `tolerances`: the largest drift of its answers to the golden inputs of `before`.

    A task that has another kind now, or reads pairs instead of single texts, has drifted by 1.
    """
    ids = {task.name: task_id for task_id, task in enumerate(tasks)}
    tasks_before = {task.name: task for task in before.tasks}
    largest = dict.fromkeys(tolerances, 0.0)
    for golden in before.goldens:
        if golden.task in largest:
            task_id = ids[golden.task]
            drift = _drift_on_example(
                run, task_id, tasks[task_id], tasks_before[golden.task], encoder, golden.input, golden.answer
            )
            largest[golden.task] = max(largest[golden.task], drift)
    return {
        name: TaskDrift(round(drift, 6), tolerances[name], drift > tolerances[name]) for name, drift in largest.items()
    }


def answer_drift(task: Task, before: AnswerValues, after: AnswerValues) -> float:
    """How far an answer of `task` has moved, from 0 to 1.

    Classification and multiple choice: half the sum of all differences in probability (total variation); a missing label
    has probability 0. Multilabel and ranking: the largest difference of a label's or a candidate's score. Regression: the
    difference as a fraction of the task's range. Tagging: one minus F1 of the entities, equal by label and position. Span:
    one minus F1 of the characters.
    """
    match task.kind:
        case Kind.CLASSIFICATION:
            drift = sum(_differences(before["scores"], after["scores"])) / 2
        case Kind.MULTIPLE_CHOICE:
            pairs = zip(before["scores"], after["scores"], strict=True)
            drift = sum(abs(first - second) for first, second in pairs) / 2
        case Kind.MULTILABEL:
            drift = max(_differences(before["scores"], after["scores"]))
        case Kind.RANKING:
            drift = max(_differences(_scores_by_candidate(before), _scores_by_candidate(after)))
        case Kind.REGRESSION:
            assert task.value_range is not None, "a regression has a range"
            lowest, highest = task.value_range
            drift = abs(before["value"] - after["value"]) / (highest - lowest)
        case Kind.TAGGING:
            entities_before, entities_after = _entities(before), _entities(after)
            common = len(entities_before & entities_after)
            drift = 1 - _f1(common, len(entities_before), len(entities_after))
        case Kind.SPAN:
            common = max(0, min(before["end"], after["end"]) - max(before["start"], after["start"]))
            drift = 1 - _f1(common, before["end"] - before["start"], after["end"] - after["start"])
    return float(min(1.0, drift))


def _drift_on_example(
    run: Run,
    task_id: int,
    task: Task,
    task_before: Task,
    encoder: InputEncoder,
    item: Input,
    answer_before: AnswerValues,
) -> float:
    if (task.kind, task.pair) != (task_before.kind, task_before.pair):
        return 1.0
    (encodings,) = encoder.encode(task, [item])
    logits = run([task_id] * len(encodings), encodings)
    return answer_drift(task_before, answer_before, asdict(answer(task, item, encodings, logits)))


def _differences(before: Mapping[Any, float], after: Mapping[Any, float]) -> list[float]:
    return [abs(before.get(key, 0.0) - after.get(key, 0.0)) for key in {**before, **after}]


def _scores_by_candidate(values: AnswerValues) -> dict[int, float]:
    return {candidate["index"]: candidate["score"] for candidate in values["ranking"]}


def _entities(values: AnswerValues) -> set[tuple[str, int, int]]:
    return {(entity["label"], entity["start"], entity["end"]) for entity in values["entities"]}


def _f1(num_common: int, num_first: int, num_second: int) -> float:
    """F1 of two sets from their sizes; 1 if both are empty."""
    return 2 * num_common / (num_first + num_second) if num_first + num_second else 1.0
