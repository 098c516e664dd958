"""What a request brings along to the device: one future, which wakes it once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from model.answers import Logits
from model.encoding import Encoding
from service.errors import DeadlineExceeded, InternalError, ServiceError


@dataclass(frozen=True, slots=True)
class Results:
    """The logits of every row of a request, in its order, and when the batch of the last of them started and ended."""

    logits: list[Logits]
    started: float
    ended: float


class Receiver(Protocol):
    """Where the results of a request's rows go. Any thread may call any of this."""

    def answer(self, place: int, logits: Logits, started: float, ended: float) -> None:
        """The result of the row at `place`, and when its batch started and ended."""

    def expire(self) -> None:
        """The deadline has passed."""

    def fail(self, error: Exception) -> None:
        """A row has failed, or the request is no longer wanted."""


class Ticket:
    """Collects the results of a request's rows. The future is done when the last row is, or at the first failure."""

    def __init__(self, num_rows: int, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[Results] = loop.create_future()
        self._loop = loop
        self._logits: list[Logits | None] = [None] * num_rows
        self._missing = num_rows
        self._lock = threading.Lock()

    def answer(self, place: int, logits: Logits, started: float, ended: float) -> None:
        """The result of the row at `place`, once for each. From any thread."""
        with self._lock:
            self._logits[place] = logits
            self._missing -= 1
            done = not self._missing
        if done:
            results = Results([logits for logits in self._logits if logits is not None], started, ended)
            self._on_loop(self._succeed, results)

    def expire(self) -> None:
        """The deadline has passed. From any thread."""
        self._on_loop(self._fail, DeadlineExceeded("the deadline passed before all of the request was answered"))

    def fail(self, error: Exception) -> None:
        """A row has failed, or the request is no longer wanted. From any thread."""
        self._on_loop(self._fail, error if isinstance(error, ServiceError) else InternalError(error, textless=True))

    def _succeed(self, results: Results) -> None:
        if not self.future.done():
            self.future.set_result(results)

    def _fail(self, error: ServiceError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def _on_loop(self, callback: Callable[[Any], None], value: object) -> None:
        # The loop is closed only when nobody waits for an answer any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, value)


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What a row in the queue carries: what to run, and where the result goes."""

    encoding: Encoding
    ticket: Receiver
    place: int
