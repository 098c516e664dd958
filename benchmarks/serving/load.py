"""The load generator: prepared requests over kept-alive connections, in a closed or an open loop.

It shares the cores with the service, so it does little: no HTTP library, requests made before the clock starts, the
answers counted afterwards. A closed loop has a number of clients, each of which waits for its answer. An open loop sends
at random times of a given rate (Poisson), whether answers come or not; its latencies count from when a request was due,
so that a service that stalls is not spared the requests that should have been sent meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import NamedTuple

LOST = 0
"""The status of a request without an answer: the connection broke, or nothing came until the end."""

_DRAIN_S = 60
_PAUSE_S = 0.05
_MAX_CONNECTIONS = 8192

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """A request ready to be sent: `wire` is all of it. `texts`: how many it asks about."""

    task: str
    texts: int
    wire: bytes

    @classmethod
    def post(cls, task: str, texts: int, path: str, body: bytes) -> Request:
        """A POST of JSON."""
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        return cls(task, texts, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


class Response(NamedTuple):
    """A response. `retry_after_s`: of the header of that name."""

    status: int
    body: bytes
    retry_after_s: float | None


class Sample(NamedTuple):
    """One request and its outcome. Times in seconds of the performance counter; `due`: when it was to be sent."""

    task: str
    texts: int
    status: int
    due: float
    sent: float
    done: float
    retry_after_s: float | None = None


@dataclass(slots=True)
class Outcome:
    """All requests of a load. Those due from `begin` to `end` count, those before it were to warm up.

    `cpu_s`: processor seconds that this process spent, on all of them.
    """

    begin: float
    end: float
    samples: list[Sample] = field(default_factory=list)
    cpu_s: float = 0.0

    @property
    def counted(self) -> list[Sample]:
        """The requests that were due between begin and end."""
        return [sample for sample in self.samples if self.begin <= sample.due < self.end]

    @property
    def statuses(self) -> dict[int, int]:
        """The number of counted requests by status."""
        return dict(sorted(Counter(sample.status for sample in self.counted).items()))

    @property
    def texts_per_s(self) -> float:
        """Texts answered with 200 between begin and end, whenever they were due."""
        done = (s.texts for s in self.samples if s.status == 200 and self.begin <= s.done < self.end)
        return sum(done) / (self.end - self.begin)

    @property
    def client_ms(self) -> float:
        """Processor milliseconds of the generator itself for a request."""
        return 1000 * self.cpu_s / max(1, len(self.samples))

    def latency_ms(self, share: float, *statuses: int) -> float:
        """The percentile of milliseconds from due to done of the counted requests with one of `statuses` (200)."""
        return percentile([1000 * (s.done - s.due) for s in self._ended(statuses)], share)

    def wait_ms(self, share: float, *statuses: int) -> float:
        """The percentile of milliseconds from sent to done of the counted requests with one of `statuses` (200)."""
        return percentile([1000 * (s.done - s.sent) for s in self._ended(statuses)], share)

    def late_ms(self, share: float) -> float:
        """The percentile of milliseconds that counted requests were sent after they were due: the generator's own delay."""
        return percentile([1000 * (sample.sent - sample.due) for sample in self.counted], share)

    def _ended(self, statuses: Sequence[int]) -> list[Sample]:
        return [sample for sample in self.counted if sample.status in (statuses or (200,))]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed. NaN without values."""
    if not values:
        return float("nan")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def arrivals(rate: float, seconds: float, seed: int = 0) -> Iterator[float]:
    """Seconds, rising and under `seconds`, at which a Poisson process of `rate` events a second has one."""
    generator, at = random.Random(seed), 0.0
    while (at := at + generator.expovariate(rate)) < seconds:
        yield at


def ask(port: int, request: Request) -> Response:
    """Asks once, over a connection of its own. Raises OSError or TimeoutError."""

    async def once() -> Response:
        connection = Connection(port)
        try:
            return await connection.ask(request)
        finally:
            connection.close()

    return asyncio.run(once())


async def closed_loop(
    port: int, requests: Sequence[Request], clients: int, seconds: float, warm_up_s: float = 0.0
) -> Outcome:
    """Sends `requests` round and round; each of the clients waits for its answer before it sends the next."""
    source = cycle(requests)

    async def client(connection: Connection, outcome: Outcome) -> None:
        while (now := time.perf_counter()) < outcome.end:
            outcome.samples.append(await connection.send(next(source), now))

    async with _measured(port, seconds, warm_up_s) as (pool, outcome):
        connections = [await pool.connection() for _ in range(clients)]
        await asyncio.gather(*(client(connection, outcome) for connection in connections))
    return outcome


async def open_loop(
    port: int, requests: Sequence[Request], rate: float, seconds: float, warm_up_s: float = 0.0
) -> Outcome:
    """Sends `rate` requests a second at random times, round and round, and waits for all answers in the end.

    Requests that could not be sent by the end are dropped and have no samples.
    """
    source = cycle(requests)
    async with _measured(port, seconds, warm_up_s) as (pool, outcome), asyncio.TaskGroup() as tasks:

        async def send(request: Request, due: float) -> None:
            connection = await pool.connection()
            outcome.samples.append(await connection.send(request, due))
            pool.idle.append(connection)

        start = outcome.begin - warm_up_s
        for at in arrivals(rate, warm_up_s + seconds):
            ahead = start + at - time.perf_counter()
            # Also where it is late it lets answers in between.
            await asyncio.sleep(max(0.0, ahead))
            if time.perf_counter() >= outcome.end:
                break
            tasks.create_task(send(next(source), start + at))
    return outcome


@asynccontextmanager
async def _measured(port: int, seconds: float, warm_up_s: float) -> AsyncIterator[tuple[Pool, Outcome]]:
    cpu, begin = time.process_time(), time.perf_counter() + warm_up_s
    pool, outcome = Pool(port), Outcome(begin, begin + seconds)
    try:
        yield pool, outcome
    finally:
        pool.close()
    outcome.cpu_s = time.process_time() - cpu


class Pool:
    """Connections to a port of this machine."""

    def __init__(self, port: int) -> None:
        self.idle: list[Connection] = []
        self._port = port
        self._open: list[Connection] = []

    async def connection(self) -> Connection:
        """An unused connection, opened if there is none."""
        while not self.idle:
            if len(self._open) < _MAX_CONNECTIONS:
                self._open.append(Connection(self._port))
                return self._open[-1]
            await asyncio.sleep(0.001)
        return self.idle.pop()

    def close(self) -> None:
        """Closes all."""
        for connection in self._open:
            connection.close()


class Connection(asyncio.Protocol):
    """One connection, opened when it is first used and again when it broke. One request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[Response] | None = None

    async def send(self, request: Request, due: float) -> Sample:
        """Sends and waits. A connection error gives the status LOST."""
        sent = time.perf_counter()
        try:
            response = await self.ask(request)
        except (OSError, TimeoutError):
            response = Response(LOST, b"", None)
            await asyncio.sleep(_PAUSE_S)
        done = time.perf_counter()
        return Sample(request.task, request.texts, response.status, due, sent, done, response.retry_after_s)

    async def ask(self, request: Request) -> Response:
        """Sends and returns the response. Raises OSError or TimeoutError."""
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        self._buffer.clear()
        self._answer = loop.create_future()
        self._transport.write(request.wire)
        timer = loop.call_later(_DRAIN_S, self._fail, TimeoutError(f"no answer in {_DRAIN_S} s"))
        try:
            return await self._answer
        finally:
            timer.cancel()

    def close(self) -> None:
        """Closes it if it is open."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        response = parse(self._buffer)
        if response is not None and self._answer is not None and not self._answer.done():
            self._answer.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(exc if isinstance(exc, OSError) else ConnectionError("the connection was closed"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
            self.close()


def parse(buffer: bytes | bytearray) -> Response | None:
    """The response in `buffer`, or None while it is incomplete."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head, body = bytes(buffer[:end]), bytes(buffer[end + 4 :])
    if _CHUNKED.search(head):
        whole = _unchunked(body)
        if whole is None:
            return None
    else:
        length = _LENGTH.search(head)
        whole = body[: int(length[1])] if length else b""
        if length and len(body) < int(length[1]):
            return None
    retry_after = _RETRY_AFTER.search(head)
    return Response(int(head[9:12]), whole, float(retry_after[1]) if retry_after else None)


def _unchunked(body: bytes) -> bytes | None:
    """The content of a chunked body, or None while its last chunk is missing."""
    content, at = b"", 0
    while (line := body.find(b"\r\n", at)) >= 0:
        size = int(body[at:line].split(b";")[0], 16)
        if len(body) < line + 2 + size + 2:
            return None
        if size == 0:
            return content
        content += body[line + 2 : line + 2 + size]
        at = line + 2 + size + 2
    return None
