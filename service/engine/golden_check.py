"""Golden check: the golden examples of a checkpoint must get their golden answers on this device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from polytask.model.answers import answer
from polytask.model.encoding import InputEncoder
from polytask.model.tasks import Task
from polytask.model_store.manifest import Golden
from polytask.service.backends.forward import Run
from polytask.service.errors import StartupError

TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "int8": 5e-2}
"""How far the numbers of a golden answer may be off, by the backend's precision; relative for values above 1.

In 8 bits the expected answers are those of the same export on the machine that made it: on another processor a value may
be rounded to the next step.
"""


class GoldenMismatch(StartupError):
    """An answer differs from the golden one."""


def check_goldens(
    run: Run, tasks: Sequence[Task], encoder: InputEncoder, goldens: Sequence[Golden], tolerance: float
) -> None:
    """Answers the golden examples. Raises GoldenMismatch at the first answer that differs from the one in the manifest."""
    ids = {task.name: task_id for task_id, task in enumerate(tasks)}
    for golden in goldens:
        task = tasks[ids[golden.task]]
        (encodings,) = encoder.encode(task, [golden.input])
        logits = run([ids[golden.task]] * len(encodings), encodings)
        given = asdict(answer(task, golden.input, encodings, logits))
        if not agree(_scores(golden.answer), _scores(given), tolerance):
            # Cut, as the scores of very many labels would fill the log and the report to the supervisor.
            raise GoldenMismatch(
                f"this device does not give the golden answer of task {golden.task!r} within {tolerance}: "
                f"expected {golden.answer!s:.1000}, got {given!s:.1000}; serve on another device, or verify the checkpoint"
            )


def agree(expected: Any, actual: Any, tolerance: float) -> bool:
    """Whether two answers are equal, numbers within the tolerance. The actual one may have fields that are newer."""
    if isinstance(expected, dict):
        return expected.keys() <= actual.keys() and all(
            agree(expected[key], actual[key], tolerance) for key in expected
        )
    if isinstance(expected, list | tuple):
        return len(expected) == len(actual) and all(map(agree, expected, actual, [tolerance] * len(expected)))
    if isinstance(expected, float):
        return bool(abs(expected - actual) <= tolerance * max(1.0, abs(expected)))
    return bool(expected == actual)


def _scores(answered: dict[str, Any]) -> Any:
    """The part of an answer that determines the rest: two nearly equal labels may change places, their scores may not."""
    if "scores" in answered:
        return answered["scores"]
    if "ranking" in answered:
        return [candidate["score"] for candidate in sorted(answered["ranking"], key=lambda entry: int(entry["index"]))]
    return answered
