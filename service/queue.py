"""Who goes next: a bounded line of rows, from which a batch is taken whenever the device is free.

No torch, no threads, no HTTP, and no clock: the time comes in. A batch holds the oldest row and rows of about its
length. These are looked for in the front of the line only, to which the tasks contribute in turns, so a task with
many rows does not hide one with few. As the oldest row is always taken, a row is passed over by at most as many
batches as there were rows in line before it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, count, islice, zip_longest
from typing import Generic, NamedTuple, TypeVar

Payload = TypeVar("Payload")

_LOOK_AHEAD = 2
"""The front of the line, in batches. More makes batches more even, and the wait of rows with a rare length longer."""

_RATE_MEMORY = 0.9
"""The weight of the past in the drain rate, per batch."""


@dataclass(frozen=True, slots=True, eq=False)
class Row(Generic[Payload]):
    """One row for the network. `deadline`: seconds on the clock that the callers of the queue share."""

    task_id: int
    num_tokens: int
    deadline: float
    payload: Payload


@dataclass(frozen=True, slots=True)
class Limits:
    """What a batch and the line may hold. A row longer than the token budget runs alone.

    `token_budget`: rows times the longest row. `max_padding`: how much of that may be padding; best about as many
    tokens as the device could process in the time that a forward costs by itself.
    """

    max_rows: int
    token_budget: int
    max_padding: int
    max_waiting_tokens: int


class Full(Exception):
    """The line has no room for a request. `wait_s`: when it will have, at the rate of the last batches."""

    def __init__(self, waiting_tokens: int, wait_s: float) -> None:
        super().__init__(f"{waiting_tokens} tokens are waiting")
        self.wait_s = wait_s


class Closed(Exception):
    """The line was closed: what is in it will be run, nothing more comes in."""


class _Place(NamedTuple):
    arrival: int
    admitted_at: float
    row: Row  # type: ignore[type-arg]


class Taken(NamedTuple, Generic[Payload]):
    """What left the line: rows to run as one batch, and rows whose deadline has passed."""

    rows: list[Row[Payload]]
    expired: list[Row[Payload]]


class Waiting(NamedTuple):
    """How much of one task is in line."""

    rows: int
    tokens: int


class Queue(Generic[Payload]):
    """The line, a lane for each task. Not thread-safe: whoever shares it between threads locks it."""

    def __init__(self, limits: Limits) -> None:
        self.closed = False
        self._limits = limits
        self._lanes: dict[int, dict[Row[Payload], _Place]] = {}
        self._arrivals = count()
        self._tokens = 0
        self._tokens_per_s: float | None = None

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def admit(self, rows: Sequence[Row[Payload]], now: float) -> None:
        """Puts all rows of a request in line, or none of them. Raises Full when they do not fit, or Closed."""
        if self.closed:
            raise Closed
        num_tokens = sum(row.num_tokens for row in rows)
        excess = self._tokens + num_tokens - self._limits.max_waiting_tokens
        if excess > 0:
            raise Full(self._tokens, self._seconds_for(excess))
        for row in rows:
            self._lanes.setdefault(row.task_id, {})[row] = _Place(next(self._arrivals), now, row)
        self._tokens += num_tokens

    def close(self) -> None:
        """From now on nothing is admitted."""
        self.closed = True

    def take(self, now: float) -> Taken[Payload]:
        """Removes the next batch from the line, together with the expired rows met on the way to it."""
        expired: list[Row[Payload]] = []

        def live(lane: Collection[_Place]) -> Iterator[_Place]:
            for place in lane:
                if place.row.deadline <= now:
                    expired.append(place.row)
                else:
                    yield place

        in_turns = chain.from_iterable(zip_longest(*(live(lane.values()) for lane in self._lanes.values())))
        # Never fewer than one row a lane, so that the oldest of all is among them.
        num_ahead = max(_LOOK_AHEAD * self._limits.max_rows, len(self._lanes))
        front = list(islice((place for place in in_turns if place is not None), num_ahead))
        chosen = [place.row for place in _around_oldest(front, self._limits)] if front else []
        self.cancel([*chosen, *expired])
        return Taken(chosen, expired)

    def cancel(self, rows: Collection[Row[Payload]]) -> int:
        """Takes the rows out of the line, those that still are in it. Returns how many were."""
        found = 0
        for row in rows:
            lane = self._lanes.get(row.task_id, {})
            if lane.pop(row, None) is not None:
                found += 1
                self._tokens -= row.num_tokens
                if not lane:
                    del self._lanes[row.task_id]
        return found

    def drained(self, num_tokens: int, seconds: float) -> None:
        """Notes how long a batch took, for the estimate that goes with Full."""
        rate = num_tokens / max(seconds, 1e-6)
        past = rate if self._tokens_per_s is None else self._tokens_per_s
        self._tokens_per_s = _RATE_MEMORY * past + (1 - _RATE_MEMORY) * rate

    def waiting(self) -> dict[int, Waiting]:
        """What is in line, by task id; only tasks that have something there."""
        return {
            task_id: Waiting(len(lane), sum(row.num_tokens for row in lane)) for task_id, lane in self._lanes.items()
        }

    def oldest_s(self, now: float) -> float:
        """For how long the oldest row has been waiting; 0 when none is."""
        firsts = [next(iter(lane.values())).admitted_at for lane in self._lanes.values()]
        return now - min(firsts, default=now)

    def _seconds_for(self, num_tokens: int) -> float:
        return 0.0 if self._tokens_per_s is None else num_tokens / self._tokens_per_s


def _around_oldest(front: Sequence[_Place], limits: Limits) -> list[_Place]:
    """The oldest place and its neighbours by length, each time the one with less padding, while all limits hold."""
    # Among rows of one length the order stays that of the front, in which the tasks take turns.
    by_length = sorted(front, key=lambda place: place.row.num_tokens)
    lengths = [place.row.num_tokens for place in by_length]
    tokens_before = [0, *accumulate(lengths)]

    def padding(low: int, high: int) -> float:
        """Padding tokens in the batch low..high; infinite where there is no such batch or it is over the budget."""
        if low < 0 or high > len(lengths) or (high - low) * lengths[high - 1] > limits.token_budget:
            return math.inf
        return (high - low) * lengths[high - 1] - (tokens_before[high] - tokens_before[low])

    low = min(range(len(by_length)), key=lambda place: by_length[place].arrival)
    high = low + 1
    while high - low < limits.max_rows:
        with_shorter, with_longer = padding(low - 1, high), padding(low, high + 1)
        if min(with_shorter, with_longer) > limits.max_padding:
            break
        low, high = (low - 1, high) if with_shorter < with_longer else (low, high + 1)
    return by_length[low:high]
