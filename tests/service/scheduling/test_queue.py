"""Queue: no row is lost or run twice, and every bound holds, for any order of operations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.service.config.task_policies import TaskPolicy
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


def test_full_has_the_time_until_there_is_room() -> None:
    """`wait_s` is that of the excess tokens at the measured speed and a quarter more, but never longer than until nothing waits."""
    queue: FairQueue[str] = FairQueue(PLAIN)
    queue.admit([row(50) for _ in range(8)], now=0)
    with pytest.raises(Full, match="400 tokens are waiting") as unmeasured:
        queue.admit([row(30)], now=0)
    assert unmeasured.value.wait_s == 0
    queue.start(replace(PLAIN, speed=50), now=0)
    with pytest.raises(Full) as measured:
        queue.admit([row(30)], now=0)
    assert measured.value.wait_s == pytest.approx(1.25 * 30 / 50)
    with pytest.raises(Full) as longest:
        queue.require_room(0, num_tokens=10_000, before=0, deadline=99, now=0)
    assert longest.value.wait_s == pytest.approx(1.25 * 400 / 50)


def test_a_row_that_would_expire_in_the_queue_is_refused() -> None:
    """A request is refused if the tokens before it take longer than its deadline allows."""
    queue: FairQueue[str] = FairQueue(PLAIN)
    queue.start(replace(PLAIN, speed=50), now=10)
    queue.admit([row(50) for _ in range(4)], now=10)
    with pytest.raises(TooLate, match="200 tokens are waiting before its last row") as refused:
        queue.admit([row(deadline=13)], now=10)
    assert refused.value.wait_s == pytest.approx(1.25 * (200 - 3 * 50 / 2) / 50)
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
    alone.start(replace(LIMITS, speed=100), now=0)
    alone.admit([row(1)], now=0)
    alone.admit([row(40, deadline=3), row(10, deadline=3)], now=0)
    together: FairQueue[str] = FairQueue(LIMITS)
    together.start(replace(LIMITS, speed=100), now=0)
    together.admit([row(1)], now=0)
    with pytest.raises(TooLate):
        together.admit([row(40, task_id=task_id, deadline=3) for task_id in (0, 1, 2, 3) for _ in range(2)], now=0)


def test_what_there_is_no_room_for_is_known_beforehand() -> None:
    """`require_room` refuses a row with the wait that `admit` would give; with an empty queue it refuses nothing."""
    queue: FairQueue[str] = FairQueue(PLAIN)
    queue.start(replace(PLAIN, speed=50), now=0)
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
        assert early.value.wait_s == late.value.wait_s == pytest.approx(1.25 * (350 + 89 - 400) / 50)
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
