"""Fair queueing: the stated bounds of shares and of waiting, for any lengths and order of arrival."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.service.config.task_policies import TaskPolicy
from polytask.service.scheduling.fair_queueing import LOOK_AHEAD
from polytask.service.scheduling.queue import BatchLimits, FairQueue, Row, Waiting

LIMITS = BatchLimits(max_rows=4, token_budget=64, forward_tokens=12, max_waiting_tokens=400)
UNBOUNDED = 10**9

lengths = st.integers(1, 90)
generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)
weights = st.sampled_from([0.25, 1.0, 2.0, 5.0])


def row(length: int = 8, *, task_id: int = 0, deadline: float = math.inf) -> Row[str]:
    """A row without a payload."""
    return Row(task_id, length, deadline, "")


def admit_alone(queue: FairQueue[str], rows: Sequence[Row[str]]) -> None:
    """Admits each row as a request of its own."""
    for single in rows:
        queue.admit([single], now=0)


@given(
    st.lists(weights, min_size=3, max_size=3),
    st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 2), st.lists(st.integers(3, 60), min_size=1, max_size=6)))),
)
def test_no_row_waits_for_more_batches_than_is_stated(
    weights: list[float], steps: list[tuple[int, list[int]] | None]
) -> None:
    """A row is in batch 2 n + 1 at the latest, where n is the number of rows that may go before it."""
    shortest, longest = 3, 60
    queue: FairQueue[str] = FairQueue(
        replace(LIMITS, max_waiting_tokens=UNBOUNDED),
        {task_id: TaskPolicy(weight=weight) for task_id, weight in enumerate(weights)},
    )
    waiting: dict[Row[str], float] = {}
    for step in [*steps, *[None] * sum(len(step[1]) for step in steps if step)]:
        if step is not None:
            task_id, rows = step[0], [row(length, task_id=step[0]) for length in step[1]]
            for index, added in enumerate(rows):
                tokens = sum(row.num_tokens for row in (*waiting, *rows[:index]) if row.task_id == task_id)
                later = sum(
                    1 + weight * (tokens + longest) / weights[task_id] / shortest
                    for other, weight in enumerate(weights)
                    if other != task_id
                )
                waiting[added] = 2 * (len(queue) + index + later) + 1
            queue.admit(rows, now=0)
            continue
        for taken in queue.take(now=0).rows:
            del waiting[taken]
        waiting = {row: batches - 1 for row, batches in waiting.items()}
        assert all(batches > 0 for batches in waiting.values())
    assert not waiting


@settings(max_examples=20)
@given(generators, st.lists(weights, min_size=3, max_size=3), st.sampled_from([4, 9, 40]))
def test_busy_tasks_get_tokens_by_their_weights(
    generator: np.random.Generator, weights: list[float], most: int
) -> None:
    """While two tasks always have rows waiting, their tokens that were run over their weights differ by at most the stated bound."""
    queue: FairQueue[str] = FairQueue(
        replace(LIMITS, max_waiting_tokens=UNBOUNDED),
        {task_id: TaskPolicy(weight=weight) for task_id, weight in enumerate(weights)},
    )
    window, longest = LOOK_AHEAD * LIMITS.token_budget, 40
    served, ahead = Counter[int](), [0.0]
    for _ in range(150):
        # Two tasks have more rows than the window can hold; the third comes and goes.
        for task_id, enough in (
            (0, window + 3 * longest),
            (1, window + 3 * longest),
            (2, int(generator.choice([0, 200]))),
        ):
            while queue.waiting().get(task_id, Waiting(0, 0)).tokens < enough:
                shortest = 1 if task_id else most
                queue.admit([row(int(generator.integers(shortest, max(shortest, most) + 1)), task_id=task_id)], now=0)
        for taken in queue.take(now=0).rows:
            served[taken.task_id] += taken.num_tokens
        ahead.append(served[0] / weights[0] - served[1] / weights[1])
    assert max(ahead) - min(ahead) <= (window + 2 * longest) * (1 / weights[0] + 1 / weights[1])


@settings(max_examples=40)
@given(generators, st.integers(1, 90), st.integers(1, 150), st.booleans())
def test_a_row_of_an_idle_task_is_in_the_next_two_batches(
    generator: np.random.Generator, length: int, batches: int, mix: bool
) -> None:
    """The first row of an idle task is in one of the next two batches, however many rows a bulk task has queued."""
    policies = {1: TaskPolicy(mix=mix)}
    queue: FairQueue[str] = FairQueue(replace(LIMITS, max_waiting_tokens=UNBOUNDED), policies)
    for _ in range(batches):
        queue.admit([row(int(generator.integers(1, 91))) for _ in range(12)], now=0)
        queue.take(now=0)
    quiet = row(length, task_id=1)
    queue.admit([quiet], now=0)
    assert quiet in [*queue.take(now=0).rows, *queue.take(now=0).rows]


@settings(max_examples=40)
@given(generators, st.lists(st.integers(1, 8), min_size=1, max_size=6), st.integers(1, 60))
def test_rows_of_the_least_served_task_are_in_every_second_batch(
    generator: np.random.Generator, lengths: list[int], batches: int
) -> None:
    """Rows of an interactive task that arrive together are in every second batch, however many rows a bulk task has queued."""
    queue: FairQueue[str] = FairQueue(replace(LIMITS, max_waiting_tokens=UNBOUNDED))
    for _ in range(batches):
        queue.admit([row(int(generator.integers(30, 60))) for _ in range(12)], now=0)
        queue.take(now=0)
    quiet = [row(length, task_id=1) for length in lengths]
    admit_alone(queue, quiet)
    for _ in quiet:
        before = queue.waiting().get(1)
        queue.take(now=0)
        queue.take(now=0)
        assert before is None or queue.waiting().get(1, Waiting(0, 0)).rows < before.rows
        queue.admit([row(40) for _ in range(12)], now=0)
    assert queue.waiting().keys() == {0}


def test_a_task_with_many_rows_does_not_hide_a_task_with_one() -> None:
    """Rows of quiet tasks are in the next batch of their length, however many rows a busy task has queued."""
    queue: FairQueue[str] = FairQueue(
        BatchLimits(max_rows=4, token_budget=64, forward_tokens=0, max_waiting_tokens=10_000)
    )
    queue.admit([row(8) for _ in range(500)], now=0)
    queue.take(now=0)
    quiet = [row(8, task_id=1), row(8, task_id=2)]
    admit_alone(queue, quiet)
    assert set(quiet) <= set(queue.take(now=0).rows)
    assert len(queue) == 502 - 8


def test_more_tasks_than_a_batch_has_rows_take_turns() -> None:
    """The second row of a task does not go before the first row of another task."""
    queue: FairQueue[str] = FairQueue(
        BatchLimits(max_rows=1, token_budget=64, forward_tokens=0, max_waiting_tokens=10_000)
    )
    for task_id in range(6):
        queue.admit([row(task_id=task_id), row(task_id=task_id)], now=0)
    assert {queue.take(now=0).rows[0].task_id for _ in range(6)} == set(range(6))


def test_a_stream_of_single_rows_does_not_starve_a_task_with_several() -> None:
    """Rows of idle tasks go first only in every second batch, even if there are always some."""
    queue: FairQueue[str] = FairQueue(LIMITS)
    second = row(60)
    queue.admit([row(60), second], now=0)
    for batch in range(20):
        queue.admit([row(3, task_id=5 + batch % 7)], now=0)
        if second in queue.take(now=0).rows:
            return
    raise AssertionError("the second row is still queued")


@given(st.integers(1, 30), lengths, lengths)
def test_beside_one_busy_task_a_row_of_an_idle_one_is_in_the_next_batch(before: int, own: int, bulk: int) -> None:
    """If only one other task is busy, the first row of an idle task is in the next batch, for any lengths."""
    queue: FairQueue[str] = FairQueue(replace(LIMITS, max_waiting_tokens=UNBOUNDED))
    queue.admit([row(bulk) for _ in range(4 * before + 100)], now=0)
    for _ in range(before):
        queue.take(now=0)
    first = row(own, task_id=1)
    queue.admit([first], now=0)
    assert first in queue.take(now=0).rows


def test_a_second_row_of_a_task_is_in_one_of_the_next_two_batches() -> None:
    """A row of a task that was just served is in one of the next two batches: every second one starts from its task."""
    queue: FairQueue[str] = FairQueue(replace(LIMITS, max_waiting_tokens=UNBOUNDED))
    queue.admit([row(5) for _ in range(100)], now=0)
    queue.take(now=0)
    batches = []
    for _ in range(6):
        queue.admit([own := row(20, task_id=1)], now=0)
        waited = 1
        while own not in queue.take(now=0).rows:
            waited += 1
        batches.append(waited)
    assert batches == [1, 2, 2, 2, 2, 2]


def test_rows_that_never_ran_do_not_make_the_next_row_of_their_task_wait() -> None:
    """A task whose rows were all cancelled or have expired counts as idle."""
    queue: FairQueue[str] = FairQueue(replace(LIMITS, max_waiting_tokens=UNBOUNDED))
    given_up = [row(40, task_id=1, deadline=5 if number % 2 else math.inf) for number in range(30)]
    queue.admit([row(40) for _ in range(1000)], now=0)
    queue.admit(given_up, now=0)
    for _ in range(20):
        queue.take(now=0)
    queue.cancel([row for row in given_up if row.deadline == math.inf])
    for _ in range(20):
        queue.take(now=6)
    assert 1 not in queue.waiting()
    again = row(40, task_id=1)
    queue.admit([again], now=6)
    assert again in [*queue.take(now=6).rows, *queue.take(now=6).rows]
