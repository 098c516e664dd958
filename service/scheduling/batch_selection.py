"""How a batch is cut: the row whose turn it is, and rows of about its length, nearest first.

Costs are counted in tokens. A batch costs its rows times its longest, and what a forward costs by itself; padding is
worth it as long as it saves forwards. Where much waits, it may be a tenth of a batch, and no more than a forward costs.
Where little waits, a row that is left behind needs much of a forward for itself: padding may be what the rows it is for
are of all that wait, times that cost. So padding is under a tenth of every batch, once ten times as many tokens wait as
a forward costs.

Batches are cut around the row that entered the front first, and around the first row of the lane that was served
least, by turns: what one lane has in the front does not make another wait that has had less. This is start-time fair
queueing once more (see `turns`), by what has been run. Of rows of one length those go first that were *fresh*: no other
row of their lane was in the front as they entered.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count

from polytask.service.scheduling.task_queue import QueuedRow, TaskQueue

_PADDING = 0.1
"""The share of a batch that padding may be where much waits."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What a batch and the line may hold. A row longer than the token budget runs alone.

    `token_budget`: rows times the longest row. `forward_tokens`: what a forward costs by itself, in tokens that the
    device could process in that time.
    """

    max_rows: int
    token_budget: int
    forward_tokens: int
    max_waiting_tokens: int


@dataclass(slots=True)
class BatchSelection:
    """A batch, and the expired rows met on the way to it."""

    places: list[QueuedRow] = field(default_factory=list)
    expired: list[QueuedRow] = field(default_factory=list)


class LookAheadWindow:
    """Rows that the next batches are cut from, in the order in which they entered; of one length, fresh ones first."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self._all: deque[QueuedRow] = deque()
        self._least_is_next = True
        self._least_served: list[tuple[float, int, TaskQueue]] = []
        self._ties = count()
        self._clock = 0.0
        self._lengths: list[int] = []
        self._of_length: dict[int, tuple[dict[QueuedRow, None], dict[QueuedRow, None]]] = {}

    def add(self, place: QueuedRow) -> None:
        """Lets a row in."""
        self._all.append(place)
        lane = place.task_queue
        place.first_of_task = not lane.num_in_window
        lane.window.append(place)
        if place.first_of_task:
            lane.served = max(lane.served, self._clock)
            self._schedule(lane)
        length = place.row.num_tokens
        if length not in self._of_length:
            insort(self._lengths, length)
            self._of_length[length] = ({}, {})
        self._of_length[length][not place.first_of_task][place] = None
        self.num_tokens += length
        place.in_window = True
        lane.num_in_window += 1

    def serve(self, places: Iterable[QueuedRow]) -> None:
        """Takes out rows that are going to be run."""
        lanes = set[TaskQueue]()
        for place in places:
            self.remove(place)
            place.task_queue.served += place.row.num_tokens / place.task_queue.policy.weight
            lanes.add(place.task_queue)
        for lane in lanes:
            self._schedule(lane)

    def remove(self, place: QueuedRow) -> None:
        """Takes a row out."""
        length = place.row.num_tokens
        same = self._of_length[length]
        del same[not place.first_of_task][place]
        if not any(same):
            del self._of_length[length]
            del self._lengths[bisect_left(self._lengths, length)]
        self.num_tokens -= length
        place.in_window = False
        place.task_queue.num_in_window -= 1

    def select_batch(self, limits: BatchLimits, line_tokens: int, now: float) -> BatchSelection:
        """The next batch, which is not taken out yet. Without rows if the first one has expired, or there is none.

        `line_tokens`: of all rows that wait, here and behind.
        """
        first = self._first(self._all)
        if first is None:
            return BatchSelection()
        least = self._of_least_served()
        seed = least if self._least_is_next else first
        if seed.row.deadline <= now:
            return BatchSelection(expired=[seed])
        # One that is both leaves the next batch to whoever comes to an idle lane.
        self._least_is_next = seed is first
        return self._grow_batch(seed, limits, line_tokens - seed.row.num_tokens, now)

    @staticmethod
    def _first(places: deque[QueuedRow]) -> QueuedRow | None:
        while places and not places[0].in_window:
            places.popleft()
        return places[0] if places else None

    def _of_least_served(self) -> QueuedRow:
        """The first row of the lane that was served least. There are rows."""
        while True:
            served, _, lane = self._least_served[0]
            place = self._first(lane.window)
            if place is not None and served == lane.served:
                self._clock = served
                return place
            heapq.heappop(self._least_served)

    def _schedule(self, lane: TaskQueue) -> None:
        heapq.heappush(self._least_served, (lane.served, next(self._ties), lane))

    def _grow_batch(self, seed: QueuedRow, limits: BatchLimits, waiting: int, now: float) -> BatchSelection:
        """The row and its neighbours by length, each time the one with less padding, as many as pay and limits allow."""
        selection, of_lane, best = BatchSelection([seed]), Counter([seed.task_queue]), 1

        def fits(place: QueuedRow) -> bool:
            most = place.task_queue.policy.max_rows
            return not most or of_lane[place.task_queue] < most

        def live(lengths: Iterable[int]) -> Iterator[QueuedRow]:
            for length in lengths:
                for place in chain(*self._of_length[length]):
                    if place.row.deadline <= now:
                        selection.expired.append(place)
                    elif place is not seed:
                        yield place

        longest = real = seed.row.num_tokens
        at = bisect_left(self._lengths, longest)
        shorter = _Neighbours(live(reversed(self._lengths[:at])), fits, -math.inf)
        longer = _Neighbours(live(self._lengths[at:]), fits, math.inf)
        for num_rows in range(2, limits.max_rows + 1):
            room = limits.token_budget // num_rows
            with_shorter = num_rows * longest - real - shorter.length() if longest <= room else math.inf
            with_longer = (num_rows - 1) * longer.length() - real if longer.length() <= room else math.inf
            padding = min(with_shorter, with_longer)
            if padding > limits.forward_tokens:
                break
            place = (shorter if with_shorter < with_longer else longer).pop()
            selection.places.append(place)
            of_lane[place.task_queue] += 1
            real += place.row.num_tokens
            longest = max(longest, place.row.num_tokens)
            part = (real - seed.row.num_tokens) / waiting
            if padding <= max(_PADDING * num_rows * longest, limits.forward_tokens * part):
                best = num_rows
        del selection.places[best:]
        return selection


class _Neighbours:
    """Rows at hand one by one, without those that do not fit. `end`: what counts as a length when there are no more."""

    def __init__(self, places: Iterator[QueuedRow], fits: Callable[[QueuedRow], bool], end: float) -> None:
        self._places = places
        self._fits = fits
        self._end = end
        self._next = next(places, None)

    def length(self) -> float:
        """Tokens of the next row, which is found anew each time: a row of the other side may have taken its place."""
        while self._next is not None and not self._fits(self._next):
            self._next = next(self._places, None)
        return self._end if self._next is None else self._next.row.num_tokens

    def pop(self) -> QueuedRow:
        """The next row."""
        place = self._next
        assert place is not None, "no row has no padding"
        self._next = next(self._places, None)
        return place
