"""Pending requests: results of rows, collected on worker threads and delivered to the event loop in batches."""

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
    """The logits of all rows of a request, in its order, and the start and end of the batch with the last of them."""

    logits: list[Logits]
    started: float
    ended: float


class ResultSink(Protocol):
    """Receives the results of a request's rows. Any thread may call any method."""

    def answer(self, index: int, logits: Logits, started: float, ended: float) -> None:
        """Receives the logits of the row at `index`, and the start and end of its batch."""

    def expire(self) -> None:
        """Ends the request: its deadline has passed."""

    def fail(self, error: Exception) -> None:
        """Ends the request: a row has failed, or nobody waits for it any more."""


class PendingRequest:
    """Collects the results of a request's rows. The future is done with the last row, or at the first failure.

    `mailbox`: the `completion_mailbox` of the loop that waits.
    """

    def __init__(self, num_rows: int, mailbox: LoopMailbox[Completion]) -> None:
        self.future: asyncio.Future[Results] = mailbox.loop.create_future()
        self._mailbox = mailbox
        self._logits: list[Logits | None] = [None] * num_rows
        self._missing = num_rows
        self._lock = threading.Lock()

    def answer(self, index: int, logits: Logits, started: float, ended: float) -> None:
        """Stores the logits of the row at `index`, once for each row. From any thread."""
        with self._lock:
            self._logits[index] = logits
            self._missing -= 1
            done = not self._missing
        if done:
            results = Results([logits for logits in self._logits if logits is not None], started, ended)
            self._mailbox.put(Completion(self, results))

    def expire(self) -> None:
        """Fails the request with DeadlineExceeded. From any thread."""
        self.fail(DeadlineExceeded("the deadline passed before all of the request was answered"))

    def fail(self, error: Exception) -> None:
        """Fails the request; an error that is not for clients becomes InternalError. From any thread."""
        shown = error if isinstance(error, ServiceError) else InternalError(error, textless=True)
        self._mailbox.put(Completion(self, shown))


class Completion(NamedTuple):
    """A request and its outcome."""

    request: PendingRequest
    outcome: Results | ServiceError


def completion_mailbox(loop: asyncio.AbstractEventLoop) -> LoopMailbox[Completion]:
    """A mailbox that sets the futures of pending requests on their event loop."""
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
    """The payload of a queued row: its encoding, and the sink and index of its result."""

    encoding: Encoding
    sink: ResultSink
    index: int


class LoopMailbox(Generic[Item]):
    """Passes items from any thread to `deliver`, which is called on the loop with all items that have arrived, in order.

    Waking a loop is a system call; items that arrive while it is being woken need no other.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[list[Item]], None]) -> None:
        self.loop = loop
        self._deliver = deliver
        self._items: deque[Item] = deque()
        self._waking = False

    def put(self, item: Item) -> None:
        """Adds an item, from any thread. After the loop was closed nothing is delivered."""
        self._items.append(item)
        if not self._waking:
            self._waking = True
            # RuntimeError: the loop is closed, and nobody waits for the item.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._empty)

    def _empty(self) -> None:
        # First, so that an item that arrives from now on wakes the loop again.
        self._waking = False
        items = [self._items.popleft() for _ in range(len(self._items))]
        self._deliver(items)
