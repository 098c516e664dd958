"""Whose turn it is: start-time fair queueing between lanes, by tokens.

A row that is the first of its lane has a *start tag*: the virtual time at which it came, or the *finish tag* of its
lane if that is later. The row with the smallest start tag is the next to leave its lane for the front; that tag is the
virtual time from then on, and the lane's finish tag is that tag and the row's tokens over the lane's weight. So an idle
lane saves nothing up, and lanes in which rows wait get tokens by their weights, however many rows they have and
however long these are. Of equal tags the lane with the smaller finish tag goes first: the one that was idle.

This is start-time fair queueing (P. Goyal, H. M. Vin, H. Cheng, IEEE/ACM Transactions on Networking 5(5), 1997). Not
deficit round robin, as there a row that comes to an idle lane waits for a round of all lanes; not fair queueing by
finish tags, as there the virtual time is expensive to know.
"""

from __future__ import annotations

import heapq
from itertools import count

from polytask.service.scheduling.batch_selection import BatchLimits, BatchSelection, LookAheadWindow
from polytask.service.scheduling.task_queue import QueuedRow, TaskQueue, Turn

LOOK_AHEAD = 16
"""Tokens in the front, in token budgets. More makes batches fuller and more even; less is fairer in the short run."""

_BURST = 64
"""How many more rows may enter the front for a batch than leave it: a long line is not let in all at once."""


class FairScheduler:
    """Lanes whose rows may share a batch, and their front. `clock`: the virtual time among them.

    `weight`: of those that have rows. `served`: what of it was run, over this weight, for the turn of whole pools.
    """

    def __init__(self) -> None:
        self.clock = 0.0
        self.num_rows = 0
        self.num_tokens = 0
        self.weight = 0.0
        self.served = 0.0
        self._front = LookAheadWindow()
        self._heads: list[tuple[Turn, int, TaskQueue]] = []
        self._ties = count()

    def add(self, lane: TaskQueue, places: list[QueuedRow]) -> None:
        """Puts rows at the end of their lane."""
        lane.backlog += places
        self.num_rows += len(places)
        self.num_tokens += sum(place.row.num_tokens for place in places)
        self._schedule(lane)

    def select_batch(self, limits: BatchLimits, now: float) -> BatchSelection:
        """Removes the next batch, and expired rows met on the way. At least one row leaves, whichever way."""
        late = self._fill_front(limits, now)
        cut = self._front.select_batch(limits, self.num_tokens, now)
        self.served += sum(place.row.num_tokens for place in cut.places) / self.weight
        self._front.serve(cut.places)
        for place in cut.places:
            self._leave(place)
        for place in (*late, *cut.expired):
            self.withdraw(place)
        return BatchSelection(cut.places, late + cut.expired)

    def withdraw(self, place: QueuedRow) -> None:
        """Removes a row that is not going to be run."""
        self._leave(place)
        if place.in_window:
            self._front.remove(place)

    def _leave(self, place: QueuedRow) -> None:
        place.removed = True
        self.num_rows -= 1
        self.num_tokens -= place.row.num_tokens

    def _fill_front(self, limits: BatchLimits, now: float) -> list[QueuedRow]:
        """Lets rows into the front by turn while there is room, and the first of each lane in any case.

        Returns those that have expired instead.
        """
        expired = []
        for _ in range(limits.max_rows + _BURST):
            lane = self._next_lane()
            room = self._front.num_tokens < LOOK_AHEAD * limits.token_budget
            if lane is None or not (room or not lane.num_in_window):
                break
            place = lane.backlog.popleft()
            if place.row.deadline <= now:
                expired.append(place)
            else:
                assert lane.next_turn is not None, "a lane whose turn it is has one"
                self.clock = max(self.clock, lane.next_turn[0])
                lane.finish = lane.next_turn[0] + place.row.num_tokens / lane.policy.weight
                self._front.add(place)
            self._schedule(lane)
        return expired

    def _schedule(self, lane: TaskQueue) -> None:
        """Takes note of the turn of a lane's first row, if it is another than before."""
        head = lane.head()
        turn = None if head is None else (max(head.clock, lane.finish), lane.finish, head.arrival)
        if turn != lane.next_turn:
            lane.next_turn = turn
            if turn is not None:
                heapq.heappush(self._heads, (turn, next(self._ties), lane))

    def _next_lane(self) -> TaskQueue | None:
        """The lane whose turn it is."""
        while self._heads:
            turn, _, lane = self._heads[0]
            if turn == lane.next_turn:
                head = lane.head()
                if head is not None and head.arrival == turn[2]:
                    return lane
                self._schedule(lane)
            heapq.heappop(self._heads)
        return None
