"""The desk of a frontend: rows go to the engine with the least to do, and come back through their ticket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from itertools import count
from operator import attrgetter
from pathlib import Path

import msgspec

from polytask.service.errors import NotReady
from polytask.service.pending import ResultSink, RowPayload
from polytask.service.processes.ipc import Answered, Cancel, Connection, EncodedRow, Failed, Status, Submit, ToFrontend
from polytask.service.scheduling.queue import Full, Row

logger = logging.getLogger(__name__)

_RETRY_S = 0.05
"""Between two attempts to reach an engine that is not there yet, or not any more."""

_DECODER: msgspec.msgpack.Decoder[ToFrontend] = msgspec.msgpack.Decoder(ToFrontend)


class RemoteEngineClient:
    """Hands rows in at engine processes (`predictor.Desk`); all its methods are called on one event loop.

    A request goes whole to the engine with the fewest tokens in flight from here, engines taking turns where these are
    equal; one that is down or not ready gets none. An engine's refusal comes through the ticket, as does the end of an
    engine that dies. `sockets`: of the engines. `max_waiting_tokens`: in the line of each.
    """

    draining = False

    def __init__(self, sockets: Sequence[Path], max_waiting_tokens: int) -> None:
        self._max_waiting_tokens = max_waiting_tokens
        self._engines = [_EngineConnection(path) for path in sockets]
        self._turns = count()

    @property
    def ready(self) -> bool:
        """Whether an engine is."""
        return self.num_ready > 0

    @property
    def num_ready(self) -> int:
        """Engines that are."""
        return sum(engine.ready for engine in self._engines)

    def recover(self) -> None:
        """Does nothing: an engine tries again by itself."""

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Within this block there is a connection to each engine whenever it is up."""
        loops = [asyncio.create_task(engine.stay_connected()) for engine in self._engines]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    def require_room(self, task_id: int | None, num_tokens: int, before: int, deadline: float) -> None:  # noqa: ARG002, a lane is the engine's affair
        """Raises queue.Full where what is in flight from here would be more than any engine takes.

        `wait_s` is what the engine said when it last refused. What others have there it knows alone, and refuses by itself.
        """
        least = min((engine for engine in self._engines if engine.ready), key=_tokens, default=None)
        if least is not None and least.tokens and least.tokens + before + num_tokens > self._max_waiting_tokens:
            raise Full(least.tokens, least.wait_s)

    def submit(self, rows: Sequence[Row[RowPayload]]) -> None:
        """Sends all rows of a request to one engine."""
        turn = next(self._turns) % len(self._engines)
        up = [engine for engine in self._engines[turn:] + self._engines[:turn] if engine.ready]
        if up:
            min(up, key=_tokens).submit(rows)
        else:
            rows[0].payload.sink.fail(NotReady("no engine is up", retry_after_s=1))

    def cancel(self, rows: Collection[Row[RowPayload]], reason: str | None = None) -> None:
        """Tells the engine that nobody waits for a request any more."""
        ticket = next(iter(rows)).payload.sink
        for engine in self._engines:
            engine.cancel(ticket, reason)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A request that has no answer yet."""

    ticket: ResultSink
    tokens: int


class _EngineConnection:
    """What a frontend knows of an engine. `tokens`: of the requests that it has not answered.

    `wait_s`: what it said when it last refused one.
    """

    def __init__(self, path: Path) -> None:
        self.ready = False
        self.tokens = 0
        self.wait_s = 0.0
        self._path = path
        self._numbers = count()
        self._sent: dict[int, _Sent] = {}
        self._by_ticket: dict[ResultSink, int] = {}
        self._connection: Connection[ToFrontend] | None = None

    async def stay_connected(self) -> None:
        """Connects whenever there is no connection; until cancelled."""
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
        number, ticket = next(self._numbers), rows[0].payload.sink
        self._sent[number] = sent = _Sent(ticket, sum(row.num_tokens for row in rows))
        self._by_ticket[ticket] = number
        self.tokens += sent.tokens
        encoded = tuple(EncodedRow.of(row.task_id, row.payload.encoding) for row in rows)
        self._connection.send([Submit(number, rows[0].deadline, encoded)])

    def cancel(self, ticket: ResultSink, reason: str | None) -> None:
        number = self._by_ticket.get(ticket)
        if number is not None and self._connection is not None:
            self._settle(number)
            self._connection.send([Cancel(number, reason)])

    def _received(self, _: Connection[ToFrontend], message: ToFrontend) -> None:
        match message:
            case Status(ready):
                self.ready = ready
            case Answered(number, started, ended, rows):
                # None: the request was cancelled in the meantime.
                if ticket := self._settle(number):
                    for place, row in enumerate(rows):
                        ticket.answer(place, row.array(), started, ended)
            case Failed(number, retry_after_s=wait_s):
                self.wait_s = wait_s or self.wait_s
                if ticket := self._settle(number):
                    ticket.fail(message.rebuilt())

    def _settle(self, number: int) -> ResultSink | None:
        """Forgets a request; returns its ticket if it was not forgotten yet."""
        sent = self._sent.pop(number, None)
        if sent is None:
            return None
        self.tokens -= sent.tokens
        del self._by_ticket[sent.ticket]
        return sent.ticket

    def _lost(self) -> None:
        self.ready = False
        self._connection = None
        if self._sent:
            logger.warning("an engine has ended with %d requests unanswered", len(self._sent))
        for number in list(self._sent):
            if ticket := self._settle(number):
                ticket.fail(NotReady("the engine that was to run this has died; it is started again", retry_after_s=1))


_tokens = attrgetter("tokens")
