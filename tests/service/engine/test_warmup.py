"""Warm-up: it runs the largest batches, with the forward and the limits that requests get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from polytask.model.encoding import Encoding
from polytask.service.engine.warmup import BatchTimeTarget, warm_up, worst_shapes
from polytask.service.scheduling.queue import BatchLimits
from tests.support import tiny

LIMITS = BatchLimits(max_rows=8, token_budget=256, forward_tokens=32, max_waiting_tokens=1000)


class Recorded:
    """A forward that keeps the shapes that it ran."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, task_ids: Sequence[int], encodings: Sequence[Encoding]) -> list[Any]:
        self.shapes.append((len(task_ids), len(encodings[0])))
        return []


def test_the_largest_batches_are_run_once() -> None:
    """Without a target the limits stay, and each worst shape is run."""
    run = Recorded()
    assert warm_up(run, tiny.tasks(), 0, LIMITS) == LIMITS
    assert run.shapes == worst_shapes(tiny.tasks(), LIMITS)


def test_with_a_target_the_limits_are_calibrated() -> None:
    """A device that takes no time gets the largest batches that its rows allow, and these are run as well."""
    run = Recorded()
    limits = warm_up(run, tiny.tasks(), 0, LIMITS, BatchTimeTarget(60, 10**6))
    assert limits.token_budget == 8 * 64
    assert run.shapes[-3:] == worst_shapes(tiny.tasks(), limits)


@given(st.integers(1, 300), st.integers(1, 5000))
def test_the_worst_shapes_are_the_largest_that_the_queue_lets_through(max_rows: int, token_budget: int) -> None:
    """No shape exceeds the limits, except a single row; one has the longest row, one as many rows as a batch can have."""
    shapes = worst_shapes(tiny.tasks(), replace(LIMITS, max_rows=max_rows, token_budget=token_budget))
    assert (1, 64) in shapes
    most_rows = max(num_rows for num_rows, _ in shapes)
    shortest = 2
    assert most_rows == max_rows or (most_rows + 1) * shortest > token_budget
    for num_rows, length in shapes:
        assert num_rows <= max_rows
        assert length <= 64
        assert num_rows == 1 or num_rows * length <= token_budget
