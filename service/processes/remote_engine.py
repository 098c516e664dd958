"""Remote engines: the client through which a frontend sends rows to the engine process with the least work."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from itertools import count
from operator import attrgetter
from pathlib import Path

import msgspec

from polytask.service.errors import NotReady
from polytask.service.liveness import HUNG_S, TICK_S, ProgressWatch
from polytask.service.pending import ResultSink, RowPayload
from polytask.service.processes.ipc import Answered, Cancel, Connection, EncodedRow, Failed, Status, Submit, ToFrontend
from polytask.service.scheduling.queue import Full, Row

logger = logging.getLogger(__name__)

_RETRY_S = 0.05
"""Pause between attempts to connect to an engine that is not up."""

_DECODER: msgspec.msgpack.Decoder[ToFrontend] = msgspec.msgpack.Decoder(ToFrontend)


class RemoteEngineClient:
    """Submits rows to engine processes (`EngineClient`). All methods are called on one event loop.

    All rows of a request go to one engine: among those that are ready, the one with the fewest tokens in flight from
    here, in turn where these are equal. The request's sink gets an engine's refusal or death. An engine that says nothing
    for HUNG_S is not ready until it speaks again. `sockets`: of the engines. `max_waiting_tokens`: in the queue of each.
    """

    draining = False
    # The supervisor restarts an engine that hangs; no restart of a frontend would help.
    lost = False

    def __init__(self, sockets: Sequence[Path], max_waiting_tokens: int) -> None:
        self._max_waiting_tokens = max_waiting_tokens
        self._engines = [_EngineConnection(path) for path in sockets]
        self._rotation = count()

    @property
    def ready(self) -> bool:
        """Whether any engine is ready."""
        return self.num_ready > 0

    @property
    def num_ready(self) -> int:
        """The number of engines that are ready."""
        return sum(engine.ready for engine in self._engines)

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Within this block every engine that is up is connected."""
        loops = [asyncio.create_task(engine.stay_connected()) for engine in self._engines]
        loops.append(asyncio.create_task(self._watch()))
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    def require_room(self, task_id: int | None, num_tokens: int, before: int, deadline: float) -> None:  # noqa: ARG002, task queues are in the engine
        """Raises queue.Full where more tokens would be in flight from here than any engine accepts.

        Only the engine knows the rows of other frontends, and it refuses those beyond its limit itself.
        """
        engine = min((each for each in self._engines if each.ready), key=_tokens, default=None)
        if engine is not None and engine.tokens:
            excess = engine.tokens + before + num_tokens - self._max_waiting_tokens
            if excess > 0:
                raise Full(engine.tokens, min(excess, engine.tokens) / engine.speed)

    def submit(self, rows: Sequence[Row[RowPayload]]) -> None:
        """Sends all rows of a request to one engine."""
        first = next(self._rotation) % len(self._engines)
        ready = [engine for engine in self._engines[first:] + self._engines[:first] if engine.ready]
        if ready:
            min(ready, key=_tokens).submit(rows)
        else:
            rows[0].payload.sink.fail(NotReady("no engine is up", retry_after_s=1))

    def cancel(self, rows: Collection[Row[RowPayload]], reason: str | None = None) -> None:
        """Cancels a request at its engine."""
        sink = next(iter(rows)).payload.sink
        for engine in self._engines:
            engine.cancel(sink, reason)

    async def _watch(self) -> None:
        while True:
            for engine in self._engines:
                engine.look()
            await asyncio.sleep(TICK_S)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A request that is not answered yet."""

    sink: ResultSink
    tokens: int


class _EngineConnection:
    """The connection to one engine. `tokens`: of unanswered requests. `speed`: of the engine, in tokens a second."""

    def __init__(self, path: Path) -> None:
        self.ready = False
        self.tokens = 0
        self.speed = math.inf
        self._path = path
        self._numbers = count()
        self._sent: dict[int, _Sent] = {}
        self._by_sink: dict[ResultSink, int] = {}
        self._connection: Connection[ToFrontend] | None = None
        self._num_received = 0
        self._progress = ProgressWatch()

    def look(self) -> None:
        """Fails what was sent to the engine if it has said nothing for long. To be called every TICK_S."""
        if self._progress.look(self._num_received) > HUNG_S and (self.ready or self._sent):
            self.ready = False
            self._fail_sent("hangs")

    async def stay_connected(self) -> None:
        """Connects, and connects again after a loss, until cancelled."""
        while True:
            ended = asyncio.Event()

            def lost(_: Connection[ToFrontend], ended: asyncio.Event = ended) -> None:
                self._lost()
                ended.set()

            connection = Connection(_DECODER, self._received, lost)
            try:
                await asyncio.get_running_loop().create_unix_connection(lambda: connection, str(self._path))  # noqa: B023, called at once
            except OSError:
                await asyncio.sleep(_RETRY_S)
                continue
            self._connection = connection
            try:
                await ended.wait()
            finally:
                connection.close()

    def submit(self, rows: Sequence[Row[RowPayload]]) -> None:
        assert self._connection is not None, "an engine that is ready is connected"
        number, sink = next(self._numbers), rows[0].payload.sink
        self._sent[number] = sent = _Sent(sink, sum(row.num_tokens for row in rows))
        self._by_sink[sink] = number
        self.tokens += sent.tokens
        encoded = tuple(EncodedRow.of(row.task_id, row.payload.encoding) for row in rows)
        self._connection.send([Submit(number, rows[0].deadline, encoded)])

    def cancel(self, sink: ResultSink, reason: str | None) -> None:
        number = self._by_sink.get(sink)
        if number is not None and self._connection is not None:
            self._remove(number)
            self._connection.send([Cancel(number, reason)])

    def _received(self, _: Connection[ToFrontend], message: ToFrontend) -> None:
        self._num_received += 1
        match message:
            case Status(ready, speed):
                self.ready, self.speed = ready, speed
            case Answered(number, started, ended, rows):
                # None: the request has been cancelled.
                if sink := self._remove(number):
                    for index, row in enumerate(rows):
                        sink.answer(index, row.array(), started, ended)
            case Failed(number):
                if sink := self._remove(number):
                    sink.fail(message.rebuilt())

    def _remove(self, number: int) -> ResultSink | None:
        """Removes a request. Returns its sink, or None if it was removed before."""
        sent = self._sent.pop(number, None)
        if sent is None:
            return None
        self.tokens -= sent.tokens
        del self._by_sink[sent.sink]
        return sent.sink

    def _lost(self) -> None:
        self.ready = False
        self._connection = None
        if self._sent:
            self._fail_sent("has died")

    def _fail_sent(self, reason: str) -> None:
        logger.warning("an engine %s with %d requests unanswered", reason, len(self._sent))
        for number in list(self._sent):
            if self._connection is not None:
                self._connection.send([Cancel(number, None)])
            if sink := self._remove(number):
                sink.fail(NotReady(f"the engine that was to run this {reason}; it is started again", retry_after_s=1))


_tokens = attrgetter("tokens")
