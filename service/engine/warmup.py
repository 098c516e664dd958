"""What runs before the first request: calibration, the largest batches that can come, and the golden examples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol

from polytask.model.answers import answer
from polytask.model.encoding import Encoding, InputEncoder
from polytask.model.tasks import Task
from polytask.model_store.manifest import Golden
from polytask.service.backends.forward import Run
from polytask.service.engine.calibration import best_of_repeats, calibrate
from polytask.service.errors import StartupError
from polytask.service.scheduling.queue import BatchLimits

TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "int8": 5e-2}
"""How far a golden answer's numbers may be off, by the runner's precision; of values above 1, the share of them.

In 8 bits against what the same export answered when it was made: on another processor a value may fall on the next step.
"""

_SHORTEST = 2
"""Tokens of a row without text: where it starts and where it ends."""

logger = logging.getLogger(__name__)


class GoldenMismatch(StartupError):
    """An answer is not the golden one."""


@dataclass(frozen=True, slots=True)
class BatchTimeTarget:
    """What the token budget is calibrated to: seconds that a batch may take, and tokens it may have whatever it takes."""

    seconds: float
    most_tokens: int


class GoldenCheck(Protocol):
    """What hears whether the golden examples were answered as they should be."""

    def __call__(self, *, passed: bool) -> None:
        """Once a check."""


def _unheard(*, passed: bool) -> None:
    """Hears nothing."""


def warm_up(
    run: Run,
    tasks: Sequence[Task],
    encoder: InputEncoder,
    goldens: Sequence[Golden],
    limits: BatchLimits,
    precision: str,
    target: BatchTimeTarget | None = None,
    golden_check: GoldenCheck = _unheard,
) -> BatchLimits:
    """Runs everything once. Raises GoldenMismatch where an answer is not the golden one; `golden_check` hears of it.

    Returns the limits; with a target, what calibration made of them.
    """

    def run_shape(num_rows: int, length: int) -> None:
        row = Encoding((encoder.pad_id,) * length, (0,) * length)
        run([_token_level_first(tasks)] * num_rows, [row] * num_rows)

    if target is not None:
        limits = _calibrated(run_shape, max(task.max_length for task in tasks), limits, target)
    for num_rows, length in worst_shapes(tasks, limits):
        run_shape(num_rows, length)
    try:
        check_goldens(run, tasks, encoder, goldens, TOLERANCES[precision])
    except GoldenMismatch:
        golden_check(passed=False)
        raise
    golden_check(passed=True)
    return limits


def _calibrated(
    run_shape: Callable[[int, int], None], longest: int, limits: BatchLimits, target: BatchTimeTarget
) -> BatchLimits:
    found = calibrate(
        lambda num_rows, length: best_of_repeats(partial(run_shape, num_rows, length), target.seconds),
        longest=longest,
        max_rows=limits.max_rows,
        target_s=target.seconds,
        most_tokens=target.most_tokens,
    )
    logger.info(
        "batches of up to %d tokens take %.0f ms; a forward by itself costs as much as %d tokens",
        found.token_budget,
        1000 * target.seconds,
        found.forward_tokens,
    )
    return replace(limits, token_budget=found.token_budget, forward_tokens=found.forward_tokens)


def worst_shapes(tasks: Sequence[Task], limits: BatchLimits) -> list[tuple[int, int]]:
    """Rows and length of the largest batches: one row, as many long rows as fit, and as long ones as fit when full.

    Only the one row may be over the token budget.
    """
    longest = max(task.max_length for task in tasks)
    rows_of_longest = max(1, min(limits.max_rows, limits.token_budget // longest))
    rows_when_full = max(1, min(limits.max_rows, limits.token_budget // _SHORTEST))
    length_when_full = max(1, min(longest, limits.token_budget // rows_when_full))
    return [(1, longest), (rows_of_longest, longest), (rows_when_full, length_when_full)]


def check_goldens(
    run: Run, tasks: Sequence[Task], encoder: InputEncoder, goldens: Sequence[Golden], tolerance: float
) -> None:
    """Answers the golden examples. Raises GoldenMismatch at the first answer that is not the one in the manifest."""
    ids = {task.name: task_id for task_id, task in enumerate(tasks)}
    for golden in goldens:
        task = tasks[ids[golden.task]]
        (encodings,) = encoder.encode(task, [golden.input])
        logits = run([ids[golden.task]] * len(encodings), encodings)
        found = asdict(answer(task, golden.input, encodings, logits))
        if not agree(_scores(golden.answer), _scores(found), tolerance):
            raise GoldenMismatch(
                f"this device does not give the golden answer of task {golden.task!r} within {tolerance}: "
                f"expected {golden.answer}, got {found}; serve on another device, or verify the checkpoint"
            )


def agree(expected: Any, found: Any, tolerance: float) -> bool:
    """Whether two answers are the same, numbers within the tolerance."""
    if isinstance(expected, dict):
        return expected.keys() == found.keys() and all(agree(expected[key], found[key], tolerance) for key in expected)
    if isinstance(expected, list | tuple):
        return len(expected) == len(found) and all(map(agree, expected, found, [tolerance] * len(expected)))
    if isinstance(expected, float):
        return bool(abs(expected - found) <= tolerance * max(1.0, abs(expected)))
    return bool(expected == found)


def _scores(given: dict[str, Any]) -> Any:
    """The part of an answer from which the rest follows. Two labels all but equal may change places, scores may not."""
    if "scores" in given:
        return given["scores"]
    if "ranking" in given:
        return [candidate["score"] for candidate in sorted(given["ranking"], key=lambda entry: int(entry["index"]))]
    return given


def _token_level_first(tasks: Sequence[Task]) -> int:
    """The id of a task with token outputs if there is one: its batches make the most of the heads."""
    return max(range(len(tasks)), key=lambda task_id: tasks[task_id].token_level)
