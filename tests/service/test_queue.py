"""The queue: nothing lost, nothing twice, every bound kept, the oldest row always taken."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.queue import Closed, Full, Limits, Queue, Row, Waiting

LIMITS = Limits(max_rows=4, token_budget=64, max_padding=12, max_waiting_tokens=400)


def row(length: int = 8, *, task_id: int = 0, deadline: float = math.inf) -> Row[str]:
    """A row with nothing in it."""
    return Row(task_id, length, deadline, "")


@dataclass
class Run:
    """What became of the rows of a run, and how often each was passed over."""

    waiting: list[Row[str]] = field(default_factory=list)
    ran: list[Row[str]] = field(default_factory=list)
    expired: list[Row[str]] = field(default_factory=list)
    cancelled: list[Row[str]] = field(default_factory=list)
    refused: list[Row[str]] = field(default_factory=list)
    before: dict[Row[str], int] = field(default_factory=dict)
    passed_over: dict[Row[str], int] = field(default_factory=dict)


lengths = st.integers(1, 90)
requests = st.lists(
    st.builds(row, lengths, task_id=st.integers(0, 3), deadline=st.integers(0, 12).map(float)), min_size=1, max_size=9
)
operations = st.lists(
    st.one_of(requests, st.just("take"), st.tuples(st.just("cancel"), st.integers(0, 40))), max_size=40
)


@given(operations)
def test_every_row_ends_once_and_every_batch_is_within_bounds(steps: list[object]) -> None:
    """Whatever is admitted, taken and cancelled in whatever order: each row ends once, and each batch is legal."""
    queue: Queue[str] = Queue(LIMITS)
    run = Run()
    for now, step in enumerate([*steps, *["take"] * 200]):
        match step:
            case list():
                admit(queue, run, step, now)
            case ("cancel", int(place)):
                gone = run.waiting[place : place + 3]
                assert queue.cancel(gone) == len(gone)
                run.cancelled += gone
                run.waiting = [waiting for waiting in run.waiting if waiting not in gone]
            case _:
                take(queue, run, now)
        assert len(queue) == len(run.waiting)
    assert not run.waiting
    everything = [*run.ran, *run.expired, *run.cancelled, *run.refused]
    assert len(everything) == len(set(everything)) == sum(len(step) for step in steps if isinstance(step, list))


def admit(queue: Queue[str], run: Run, rows: list[Row[str]], now: float) -> None:
    """Admits rows; a request is refused exactly when it does not fit, and then whole."""
    num_tokens = sum(row.num_tokens for row in (*run.waiting, *rows))
    try:
        queue.admit(rows, now)
    except Full:
        assert num_tokens > LIMITS.max_waiting_tokens
        run.refused += rows
        return
    assert num_tokens <= LIMITS.max_waiting_tokens
    for added in rows:
        run.before[added] = len(run.waiting)
        run.passed_over[added] = 0
        run.waiting.append(added)


def take(queue: Queue[str], run: Run, now: float) -> None:
    """Takes a batch and checks it against all that is promised about batches."""
    rows, expired = queue.take(now)
    assert all(row.deadline <= now for row in expired)
    assert all(row.deadline > now for row in rows)
    live = [row for row in run.waiting if row.deadline > now]
    assert bool(rows) == bool(live)
    run.waiting = [row for row in run.waiting if row not in rows and row not in expired]
    run.ran += rows
    run.expired += expired
    if rows:
        assert live[0] in rows, "the oldest row is always taken"
        padded = len(rows) * max(row.num_tokens for row in rows)
        assert len(rows) == 1 or padded <= LIMITS.token_budget
        assert len(rows) <= LIMITS.max_rows
        assert padded - sum(row.num_tokens for row in rows) <= LIMITS.max_padding
        for passed in run.waiting:
            run.passed_over[passed] += 1
            assert run.passed_over[passed] <= run.before[passed]


@given(st.lists(lengths, min_size=1, max_size=30))
def test_a_row_is_passed_over_at_most_once_for_each_row_before_it(first: list[int]) -> None:
    """However many rows of the popular length keep coming, a row of a rare length gets its turn."""
    queue: Queue[str] = Queue(Limits(max_rows=4, token_budget=10_000, max_padding=0, max_waiting_tokens=100_000))
    rare = row(1000)
    queue.admit([*(row(length, task_id=length % 3) for length in first), rare], now=0)
    for _ in range(len(first)):
        queue.admit([row(first[0]) for _ in range(8)], now=0)
        if rare in queue.take(now=0).rows:
            return
    assert rare in queue.take(now=0).rows


def test_a_row_longer_than_the_budget_runs_alone() -> None:
    """The budget does not lock a long row out."""
    queue: Queue[str] = Queue(LIMITS)
    long, short = row(90), row(1)
    queue.admit([long, short], now=0)
    assert queue.take(now=0).rows == [long]
    assert queue.take(now=0).rows == [short]


def test_a_batch_holds_rows_of_about_the_length_of_the_oldest() -> None:
    """Rows of other lengths wait, whichever came first, until the oldest is one of them."""
    queue: Queue[str] = Queue(LIMITS)
    rows = [row(length) for length in (10, 50, 11, 9, 10, 13)]
    queue.admit(rows, now=0)
    assert {row.num_tokens for row in queue.take(now=0).rows} == {9, 10, 11}
    assert [row.num_tokens for row in queue.take(now=0).rows] == [50]


def test_a_batch_mixes_tasks() -> None:
    """Rows of different tasks share a batch."""
    queue: Queue[str] = Queue(LIMITS)
    rows = [row(task_id=task_id) for task_id in range(4)]
    for single in rows:
        queue.admit([single], now=0)
    assert set(queue.take(now=0).rows) == set(rows)


def test_a_task_with_many_rows_does_not_hide_a_task_with_one() -> None:
    """A row of a quiet task is in the next batch of its length, however long the line of a busy task is."""
    queue: Queue[str] = Queue(Limits(max_rows=4, token_budget=64, max_padding=0, max_waiting_tokens=10_000))
    queue.admit([row(8) for _ in range(500)], now=0)
    quiet = row(7, task_id=1)
    queue.admit([quiet, row(8, task_id=2)], now=0)
    assert {row.task_id for row in queue.take(now=0).rows} == {0, 2}
    assert quiet not in queue.take(now=0).rows
    assert len(queue) == 502 - 8


def test_the_oldest_row_is_found_with_more_tasks_than_a_batch_has_rows() -> None:
    """The front of the line has a row of every task at least."""
    queue: Queue[str] = Queue(Limits(max_rows=1, token_budget=64, max_padding=0, max_waiting_tokens=10_000))
    rows = [row(task_id=task_id) for task_id in (5, 4, 3, 2, 1, 0)]
    queue.admit([row(task_id=task_id) for task_id in range(6)], now=0)
    queue.admit(rows, now=0)
    for _ in range(6):
        queue.take(now=0)
    assert [queue.take(now=0).rows for _ in rows] == [[each] for each in rows]


def test_full_tells_when_there_will_be_room() -> None:
    """The estimate is what has to leave the line, at the rate of the last batches."""
    queue: Queue[str] = Queue(LIMITS)
    queue.admit([row(50) for _ in range(8)], now=0)
    with pytest.raises(Full, match="400 tokens are waiting") as unmeasured:
        queue.admit([row(30)], now=0)
    assert unmeasured.value.wait_s == 0
    queue.drained(100, seconds=2)
    with pytest.raises(Full) as measured:
        queue.admit([row(30)], now=0)
    assert measured.value.wait_s == pytest.approx(30 / 50)


def test_a_closed_queue_gives_but_does_not_take() -> None:
    """After closing, what is in line can still be run."""
    queue: Queue[str] = Queue(LIMITS)
    accepted = row()
    queue.admit([accepted], now=0)
    queue.close()
    with pytest.raises(Closed):
        queue.admit([row()], now=0)
    assert queue.take(now=0).rows == [accepted]


def test_it_says_what_is_waiting_and_for_how_long() -> None:
    """Rows and tokens by task, and the age of the oldest row."""
    queue: Queue[str] = Queue(LIMITS)
    assert queue.oldest_s(now=9) == 0
    queue.admit([row(5, task_id=2), row(7, task_id=2)], now=1)
    queue.admit([row(3)], now=3)
    assert queue.waiting() == {2: Waiting(2, 12), 0: Waiting(1, 3)}
    assert queue.oldest_s(now=9) == 8


def test_a_cancelled_row_makes_room_at_once() -> None:
    """What a client no longer wants does not count against the others."""
    queue: Queue[str] = Queue(LIMITS)
    rows = [row(50) for _ in range(8)]
    queue.admit(rows, now=0)
    assert queue.cancel(rows[:4]) == 4
    assert queue.cancel(rows[:4]) == 0
    queue.admit([row(50) for _ in range(4)], now=0)
