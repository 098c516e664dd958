"""Batch selection: rows of similar length, little padding if many rows wait, few forwards if few do."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.service.config.task_policies import TaskPolicy
from polytask.service.scheduling.queue import BatchLimits, FairQueue, Full, Row

CPU = BatchLimits(max_rows=32, token_budget=1024, forward_tokens=32, max_waiting_tokens=65_536)
GPU = BatchLimits(max_rows=256, token_budget=16_384, forward_tokens=1500, max_waiting_tokens=65_536)


def row(length: int, *, task_id: int = 0) -> Row[None]:
    """A row without a payload."""
    return Row(task_id, length, math.inf, None)


def batches(limits: BatchLimits, lengths: list[int]) -> list[list[int]]:
    """Row lengths of each batch, in order, when a request with these rows is alone in the queue."""
    queue: FairQueue[None] = FairQueue(limits)
    queue.admit([row(length) for length in lengths], now=0)
    taken = []
    while queue:
        taken.append(sorted(row.num_tokens for row in queue.take(now=0).rows))
    return taken


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([10, 50, 11, 9, 10, 13], [[9, 10, 10, 11, 13], [50]]),
        ([10, 14, 60], [[10, 14], [60]]),
        ([10, 40, 40], [[10, 40, 40]]),
        ([10, 60], [[10], [60]]),
        ([10] * 5 + [60] * 5, [[10] * 5, [60] * 5]),
    ],
)
def test_rows_share_a_batch_when_that_is_cheaper_than_another_forward(
    lengths: list[int], expected: list[list[int]]
) -> None:
    """If a forward costs as much as 32 tokens, a few waiting rows are batched at the least total cost."""
    assert batches(CPU, lengths) == expected


def test_a_forward_that_costs_much_is_run_once() -> None:
    """If padding is cheaper than another forward, all waiting rows are one batch."""
    assert batches(GPU, [5, 30, 90, 12]) == [[5, 12, 30, 90]]


def test_of_rows_of_one_length_single_rows_of_their_task_go_first() -> None:
    """Single rows of other tasks enter the batches of their length before the many rows of a bulk task."""
    queue: FairQueue[None] = FairQueue(CPU)
    queue.admit([row(8) for _ in range(500)], now=0)
    queue.take(now=0)
    quiet = [row(8, task_id=task_id) for task_id in range(1, 20)]
    for each in quiet:
        queue.admit([each], now=0)
    assert set(quiet) <= {*queue.take(now=0).rows, *queue.take(now=0).rows}


def test_a_task_with_its_maximum_of_rows_leaves_room_for_others() -> None:
    """A batch with `max_rows` rows of a task is filled with rows of other tasks."""
    queue: FairQueue[None] = FairQueue(CPU, {0: TaskPolicy(max_rows=3)})
    queue.admit([row(8) for _ in range(10)], now=0)
    queue.admit([row(9, task_id=1) for _ in range(10)], now=0)
    tasks = [row.task_id for row in queue.take(now=0).rows]
    assert (tasks.count(0), tasks.count(1)) == (3, 10)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1).map(np.random.default_rng), st.sampled_from([CPU, GPU]))
def test_padding_is_under_a_tenth_of_every_batch_while_much_waits(
    generator: np.random.Generator, limits: BatchLimits
) -> None:
    """Padding is at most a tenth of each batch once ten times as many tokens wait as a forward costs."""
    spread = float(generator.uniform(0, 2))
    queue: FairQueue[None] = FairQueue(replace(limits, max_waiting_tokens=10**9))
    queue.admit([row(min(384, max(2, int(generator.lognormal(3, spread))))) for _ in range(900)], now=0)
    while sum(waiting.tokens for waiting in queue.waiting().values()) > 10 * limits.forward_tokens + 384:
        rows = queue.take(now=0).rows
        padded = len(rows) * max(row.num_tokens for row in rows)
        assert padded - sum(row.num_tokens for row in rows) <= 0.1 * padded


@pytest.mark.parametrize("limits", [CPU, GPU])
def test_padding_of_a_full_queue_of_nine_tasks(limits: BatchLimits) -> None:
    """With the text lengths of nine real tasks, padding is less than a tenth of all batches together."""
    generator = np.random.default_rng(0)
    medians = [(14, 0.45)] * 4 + [(30, 0.4)] * 4 + [(150, 0.4)]
    queue: FairQueue[None] = FairQueue(limits)
    real = padded = 0
    for _ in range(120):
        while True:
            task_id = int(generator.integers(9))
            median, spread = medians[task_id]
            length = min(384, max(4, int(generator.lognormal(math.log(median), spread))))
            try:
                queue.admit([row(length, task_id=task_id)], now=0)
            except Full:
                break
        rows = queue.take(now=0).rows
        real += sum(row.num_tokens for row in rows)
        padded += len(rows) * max(row.num_tokens for row in rows)
    assert padded - real < 0.1 * padded
