"""Queue: no row is lost or run twice, and every bound holds, for any order of operations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.service.config.task_policies import TaskPolicy
from polytask.service.scheduling.fair_queueing import LOOK_AHEAD
from polytask.service.scheduling.queue import BatchLimits, Closed, FairQueue, Full, QuotaFull, Row, TooLate, Waiting

LIMITS = BatchLimits(max_rows=4, token_budget=64, forward_tokens=12, max_waiting_tokens=400)
PLAIN = replace(LIMITS, forward_tokens=0)
"""Forwards have no fixed cost, so that a rate is tokens over seconds."""
POLICIES = {
    1: TaskPolicy(weight=4, max_waiting_tokens=150),
    2: TaskPolicy(max_rows=2),
    3: TaskPolicy(weight=0.5, mix=False),
    4: TaskPolicy(max_rows=3, mix=False),
}
UNBOUNDED = 10**9


def row(length: int = 8, *, task_id: int = 0, deadline: float = math.inf) -> Row[str]:
    """A row without a payload."""
    return Row(task_id, length, deadline, "")


def admit_alone(queue: FairQueue[str], rows: Sequence[Row[str]]) -> None:
    """Admits each row as a request of its own."""
    for single in rows:
        queue.admit([single], now=0)


@dataclass
class Run:
    """The rows of a run by their state."""

    waiting: list[Row[str]] = field(default_factory=list)
    ran: list[Row[str]] = field(default_factory=list)
    expired: list[Row[str]] = field(default_factory=list)
    cancelled: list[Row[str]] = field(default_factory=list)
    refused: list[Row[str]] = field(default_factory=list)


lengths = st.integers(1, 90)
requests = st.lists(st.integers(0, 4), min_size=1, max_size=3).flatmap(
    lambda task_ids: st.lists(
        st.builds(
            lambda length, task_id, deadline: row(length, task_id=task_id, deadline=float(deadline)),
            lengths,
            st.sampled_from(task_ids),
            st.integers(0, 12),
        ),
        min_size=1,
        max_size=9,
    )
)
operations = st.lists(
    st.one_of(requests, st.just("take"), st.tuples(st.just("cancel"), st.integers(0, 40))), max_size=40
)


@given(operations)
def test_every_row_ends_once_and_every_batch_is_within_bounds(steps: list[object]) -> None:
    """For any order of admissions, batches and cancellations, each row ends once and each batch keeps to the limits."""
    queue: FairQueue[str] = FairQueue(LIMITS, POLICIES)
    run = Run()
    for now, step in enumerate([*steps, *["take"] * 200]):
        match step:
            case list():
                admit(queue, run, step, now)
            case ("cancel", int(start)):
                unwanted = run.waiting[start : start + 3]
                assert queue.cancel(unwanted) == list(unwanted)
                run.cancelled += unwanted
                run.waiting = [waiting for waiting in run.waiting if waiting not in unwanted]
            case _:
                take(queue, run, now)
        assert len(queue) == len(run.waiting)
        assert {task: waiting.tokens for task, waiting in queue.waiting().items()} == tokens_by_task(run.waiting)
    assert not run.waiting
    everything = [*run.ran, *run.expired, *run.cancelled, *run.refused]
    assert len(everything) == len(set(everything)) == sum(len(step) for step in steps if isinstance(step, list))


def tokens_by_task(rows: Sequence[Row[str]]) -> dict[int, int]:
    """Tokens of the rows of each task that has some."""
    tokens: Counter[int] = Counter()
    for each in rows:
        tokens[each.task_id] += each.num_tokens
    return dict(tokens)


def admit(queue: FairQueue[str], run: Run, rows: list[Row[str]], now: float) -> None:
    """Admits a request and checks that it is refused, as a whole, exactly if the queue or the quota of one of its tasks has no room."""
    tokens = tokens_by_task([*run.waiting, *rows])
    queue_full = sum(tokens.values()) > LIMITS.max_waiting_tokens
    over_quota = any(
        tokens[task_id] > (POLICIES.get(task_id, TaskPolicy()).max_waiting_tokens or UNBOUNDED)
        for task_id in {row.task_id for row in rows}
    )
    try:
        queue.admit(rows, now)
    except QuotaFull:
        assert over_quota
        assert not queue_full
        run.refused += rows
    except Full:
        assert queue_full
        run.refused += rows
    else:
        assert not over_quota
        assert not queue_full
        run.waiting += rows


def take(queue: FairQueue[str], run: Run, now: float) -> None:
    """Takes a batch and checks every bound of batches."""
    rows, expired = queue.take(now)
    assert all(row.deadline <= now for row in expired)
    assert all(row.deadline > now for row in rows)
    assert bool(rows) == any(row.deadline > now for row in run.waiting)
    run.waiting = [row for row in run.waiting if row not in rows and row not in expired]
    run.ran += rows
    run.expired += expired
    if rows:
        padded = len(rows) * max(row.num_tokens for row in rows)
        assert len(rows) == 1 or padded <= LIMITS.token_budget
        assert len(rows) <= LIMITS.max_rows
        assert padded - sum(row.num_tokens for row in rows) <= LIMITS.forward_tokens
        tasks = Counter(row.task_id for row in rows)
        for task_id, policy in POLICIES.items():
            assert tasks[task_id] <= (policy.max_rows or LIMITS.max_rows)
            assert policy.mix or tasks[task_id] in {0, len(rows)}


generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)
weights = st.sampled_from([0.25, 1.0, 2.0, 5.0])


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


def test_a_row_longer_than_the_budget_runs_alone() -> None:
    """A row longer than the token budget is run, alone."""
    queue: FairQueue[str] = FairQueue(LIMITS)
    long, short = row(90), row(1)
    queue.admit([long, short], now=0)
    assert queue.take(now=0).rows == [long]
    assert queue.take(now=0).rows == [short]


def test_a_batch_mixes_tasks() -> None:
    """Rows of different tasks share a batch."""
    queue: FairQueue[str] = FairQueue(LIMITS)
    rows = [row(task_id=task_id) for task_id in range(4)]
    admit_alone(queue, rows)
    assert set(queue.take(now=0).rows) == set(rows)


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


def test_full_has_the_time_until_there_is_room() -> None:
    """`wait_s` is the number of excess tokens over the rate of the last batches."""
    queue: FairQueue[str] = FairQueue(PLAIN)
    queue.admit([row(50) for _ in range(8)], now=0)
    with pytest.raises(Full, match="400 tokens are waiting") as unmeasured:
        queue.admit([row(30)], now=0)
    assert unmeasured.value.wait_s == 0
    queue.batch_done([row(100)], seconds=2)
    with pytest.raises(Full) as measured:
        queue.admit([row(30)], now=0)
    assert measured.value.wait_s == pytest.approx(30 / 50)


def test_a_row_that_would_expire_in_the_queue_is_refused() -> None:
    """A request is refused if the tokens before it take longer than its deadline allows."""
    queue: FairQueue[str] = FairQueue(PLAIN)
    queue.batch_done([row(100)], seconds=2)
    queue.admit([row(50) for _ in range(4)], now=10)
    with pytest.raises(TooLate, match="200 tokens are waiting before its last row") as refused:
        queue.admit([row(deadline=13)], now=10)
    assert refused.value.wait_s == pytest.approx(2 * 200 / 50 - 3)
    queue.admit([row(deadline=20)], now=10)
    queue.admit([row(deadline=10.1, task_id=1)], now=10)


def test_a_request_of_several_tasks_is_admitted_whole_or_not_at_all() -> None:
    """Each row enters the queue of its own task; if one task has no room, no row is admitted."""
    queue: FairQueue[str] = FairQueue(LIMITS, POLICIES)
    queue.admit([row(30), row(40, task_id=1), row(50, task_id=1), row(20, task_id=3)], now=0)
    several = {0: Waiting(1, 30), 1: Waiting(2, 90), 3: Waiting(1, 20)}
    assert queue.waiting() == several
    with pytest.raises(QuotaFull):
        queue.admit([row(5), row(61, task_id=1), row(5, task_id=2)], now=0)
    with pytest.raises(Full, match="140 tokens are waiting"):
        queue.admit([row(131), row(130, task_id=2)], now=0)
    assert queue.waiting() == several
    queue.admit([row(5), row(60, task_id=1), row(5, task_id=2)], now=0)
    assert queue.waiting() == {0: Waiting(2, 35), 1: Waiting(3, 150), 2: Waiting(1, 5), 3: Waiting(1, 20)}


def test_tasks_that_come_together_count_as_neighbours() -> None:
    """The rate that a task can count on is its share among all tasks that will then have rows."""
    alone: FairQueue[str] = FairQueue(LIMITS)
    alone.batch_done([row(100, task_id=9)], seconds=1)
    alone.admit([row(40, deadline=3), row(10, deadline=3)], now=0)
    together: FairQueue[str] = FairQueue(LIMITS)
    together.batch_done([row(100, task_id=9)], seconds=1)
    with pytest.raises(TooLate):
        together.admit([row(40, task_id=task_id, deadline=3) for task_id in (0, 1, 2, 3) for _ in range(2)], now=0)


def test_what_there_is_no_room_for_is_known_beforehand() -> None:
    """`require_room` refuses a row with the wait that `admit` would give; with an empty queue it refuses nothing."""
    queue: FairQueue[str] = FairQueue(PLAIN)
    queue.batch_done([row(100)], seconds=2)
    queue.require_room(0, num_tokens=10_000, before=0, deadline=0, now=10)
    queue.admit([row(50) for _ in range(7)], now=0)
    queue.require_room(0, num_tokens=49, before=1, deadline=99, now=0)
    with pytest.raises(TooLate):
        queue.require_room(0, num_tokens=10, before=0, deadline=5, now=0)
    for task_id, num_tokens, before in ((0, 89, 0), (1, 89, 0), (None, 89, 0), (0, 9, 80)):
        with pytest.raises(Full) as early:
            queue.require_room(task_id, num_tokens, before, deadline=99, now=0)
        with pytest.raises(Full) as late:
            queue.admit([row(89)], now=0)
        assert early.value.wait_s == late.value.wait_s == pytest.approx((350 + 89 - 400) / 50)
    queue.close()
    with pytest.raises(Closed):
        queue.require_room(0, num_tokens=1, before=0, deadline=99, now=0)


def test_a_quota_is_known_beforehand_too() -> None:
    """Tokens of other tasks that come first do not count towards a task's quota."""
    queue: FairQueue[str] = FairQueue(LIMITS, POLICIES)
    queue.admit([row(50, task_id=1) for _ in range(2)], now=0)
    queue.require_room(1, num_tokens=50, before=200, deadline=99, now=0)
    with pytest.raises(QuotaFull):
        queue.require_room(1, num_tokens=51, before=0, deadline=99, now=0)


def test_a_closed_queue_gives_but_does_not_take() -> None:
    """A closed queue admits no rows, but its rows can still be taken."""
    queue: FairQueue[str] = FairQueue(LIMITS)
    accepted = row()
    queue.admit([accepted], now=0)
    queue.close()
    with pytest.raises(Closed):
        queue.admit([row()], now=0)
    assert queue.take(now=0).rows == [accepted]


def test_it_says_what_is_waiting_and_for_how_long() -> None:
    """Rows and tokens by task, and the age of the oldest row."""
    queue: FairQueue[str] = FairQueue(LIMITS)
    assert queue.oldest_s(now=9) == 0
    queue.admit([row(5, task_id=2), row(7, task_id=2)], now=1)
    queue.admit([row(3)], now=3)
    assert queue.waiting() == {2: Waiting(2, 12), 0: Waiting(1, 3)}
    assert queue.oldest_s(now=9) == 8


def test_a_cancelled_row_makes_room_at_once() -> None:
    """Cancelled rows make room for others at once."""
    queue: FairQueue[str] = FairQueue(LIMITS)
    rows = [row(50) for _ in range(8)]
    queue.admit(rows, now=0)
    assert queue.cancel(rows[:4]) == rows[:4]
    assert not queue.cancel(rows[:4])
    queue.admit([row(50) for _ in range(4)], now=0)


@given(st.lists(lengths, min_size=1, max_size=30), st.integers(1, 6))
def test_takers_that_share_get_parts_of_a_size(waiting: list[int], shares: int) -> None:
    """With several takers a batch is one part of the queue, or one row; no row is lost, and a full queue gives full batches."""
    queue: FairQueue[str] = FairQueue(replace(LIMITS, max_waiting_tokens=UNBOUNDED))
    admit_alone(queue, [row(length) for length in waiting])
    taken = 0
    while queue:
        tokens = sum(found.tokens for found in queue.waiting().values())
        part = -(-tokens // shares) if shares > 1 else tokens * LIMITS.max_rows
        rows = queue.take(0, shares).rows
        padded = len(rows) * max(own.num_tokens for own in rows)
        assert len(rows) == 1 or padded <= min(LIMITS.token_budget, part)
        taken += len(rows)
    assert taken == len(waiting)
