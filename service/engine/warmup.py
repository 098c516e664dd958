"""Warm-up: calibration and a run of the largest batches that can occur, before the first request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from polytask.model.encoding import Encoding
from polytask.model.tasks import Task
from polytask.service.backends.forward import Run
from polytask.service.engine.calibration import best_of_repeats, calibrate
from polytask.service.scheduling.queue import BatchLimits

_SHORTEST = 2
"""Tokens of a row without text: its start and its end."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchTimeTarget:
    """What the token budget is calibrated for: `seconds` that a batch may take, and an upper bound of its tokens."""

    seconds: float
    most_tokens: int


def warm_up(
    run: Run, tasks: Sequence[Task], pad_id: int, limits: BatchLimits, target: BatchTimeTarget | None = None
) -> BatchLimits:
    """Runs the largest batches once. Returns the limits; with a target, as calibrated."""

    def run_shape(num_rows: int, length: int) -> None:
        row = Encoding((pad_id,) * length, (0,) * length)
        run([_token_level_first(tasks)] * num_rows, [row] * num_rows)

    if target is not None:
        limits = _calibrated(run_shape, max(task.max_length for task in tasks), limits, target)
    for num_rows, length in worst_shapes(tasks, limits):
        run_shape(num_rows, length)
    return limits


def _calibrated(
    run_shape: Callable[[int, int], None], longest: int, limits: BatchLimits, target: BatchTimeTarget
) -> BatchLimits:
    calibration = calibrate(
        lambda num_rows, length: best_of_repeats(partial(run_shape, num_rows, length), target.seconds),
        longest=longest,
        max_rows=limits.max_rows,
        target_s=target.seconds,
        most_tokens=target.most_tokens,
    )
    logger.info(
        "batches of up to %d tokens take %.0f ms; the fixed cost of a forward is that of %d tokens",
        calibration.token_budget,
        1000 * target.seconds,
        calibration.forward_tokens,
    )
    return replace(
        limits,
        token_budget=calibration.token_budget,
        forward_tokens=calibration.forward_tokens,
        speed=calibration.speed,
    )


def worst_shapes(tasks: Sequence[Task], limits: BatchLimits) -> list[tuple[int, int]]:
    """Number of rows and length of the largest batches: one longest row, many longest rows, and a full batch.

    Only the single row may exceed the token budget.
    """
    longest = max(task.max_length for task in tasks)
    rows_of_longest = max(1, min(limits.max_rows, limits.token_budget // longest))
    rows_when_full = max(1, min(limits.max_rows, limits.token_budget // _SHORTEST))
    length_when_full = max(1, min(longest, limits.token_budget // rows_when_full))
    return [(1, longest), (rows_of_longest, longest), (rows_when_full, length_when_full)]


def _token_level_first(tasks: Sequence[Task]) -> int:
    """The id of a task with token outputs if there is one: its batches use the most memory in the heads."""
    return max(range(len(tasks)), key=lambda task_id: tasks[task_id].token_level)
