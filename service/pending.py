"""What other threads have for an event loop: handed over in one go, however much has come since the loop last looked."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from polytask.model.answers import Logits
from polytask.model.encoding import Encoding
from polytask.service.errors import DeadlineExceeded, InternalError, ServiceError

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Results:
    """The logits of every row of a request, in its order, and when the batch of the last of them started and ended."""

    logits: list[Logits]
    started: float
    ended: float


class ResultSink(Protocol):
    """Where the results of a request's rows go. Any thread may call any of this."""

    def answer(self, index: int, logits: Logits, started: float, ended: float) -> None:
        """The result of the row at `place`, and when its batch started and ended."""

    def expire(self) -> None:
        """The deadline has passed."""

    def fail(self, error: Exception) -> None:
        """A row has failed, or the request is no longer wanted."""


class PendingRequest:
    """Collects the results of a request's rows. The future is done when the last row is, or at the first failure.

    `ends`: the `mailbox_of_requests` of the loop that waits.
    """

    def __init__(self, num_rows: int, mailbox: LoopMailbox[Completion]) -> None:
        self.future: asyncio.Future[Results] = mailbox.loop.create_future()
        self._mailbox = mailbox
        self._logits: list[Logits | None] = [None] * num_rows
        self._missing = num_rows
        self._lock = threading.Lock()

    def answer(self, index: int, logits: Logits, started: float, ended: float) -> None:
        """The result of the row at `place`, once for each. From any thread."""
        with self._lock:
            self._logits[index] = logits
            self._missing -= 1
            done = not self._missing
        if done:
            results = Results([logits for logits in self._logits if logits is not None], started, ended)
            self._mailbox.put(Completion(self, results))

    def expire(self) -> None:
        """The deadline has passed. From any thread."""
        self.fail(DeadlineExceeded("the deadline passed before all of the request was answered"))

    def fail(self, error: Exception) -> None:
        """A row has failed, or the request is no longer wanted. From any thread."""
        known = error if isinstance(error, ServiceError) else InternalError(error, textless=True)
        self._mailbox.put(Completion(self, known))


class Completion(NamedTuple):
    """How a ticket ends."""

    request: PendingRequest
    outcome: Results | ServiceError


def completion_mailbox(loop: asyncio.AbstractEventLoop) -> LoopMailbox[Completion]:
    """Where the tickets of those who wait on this loop end: their futures are done there."""
    return LoopMailbox(loop, _complete)


def _complete(completions: list[Completion]) -> None:
    for request, outcome in completions:
        if request.future.done():
            continue
        if isinstance(outcome, Results):
            request.future.set_result(outcome)
        else:
            request.future.set_exception(outcome)


@dataclass(frozen=True, slots=True, eq=False)
class RowPayload:
    """What a row in the queue carries: what to run, and where the result goes."""

    encoding: Encoding
    sink: ResultSink
    index: int


class LoopMailbox(Generic[Item]):
    """Items for `deliver`, which is called on the loop with all that are there, in the order in which they came.

    To wake a loop is a system call; what comes while it is being woken needs none.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[list[Item]], None]) -> None:
        self.loop = loop
        self._deliver = deliver
        self._items: deque[Item] = deque()
        self._waking = False

    def put(self, item: Item) -> None:
        """From any thread. After the loop was closed nothing is delivered."""
        self._items.append(item)
        if not self._waking:
            self._waking = True
            # Whoever closes a loop wants nothing that is still to come.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._empty)

    def _empty(self) -> None:
        # First: an item that comes from here on wakes the loop again.
        self._waking = False
        items = [self._items.popleft() for _ in range(len(self._items))]
        self._deliver(items)
