"""A closed loop of clients against a running service: each sends a request, waits for the answer, sends the next."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle


@dataclass(frozen=True, slots=True)
class Request:
    """One input of one task, ready to be sent."""

    task: str
    body: bytes

    @classmethod
    def of(cls, task: str, item: object) -> Request:
        """The request for one input, given as the API takes it."""
        return cls(task, json.dumps({"inputs": [item]}).encode())


@dataclass(slots=True)
class Outcome:
    """What the clients saw: seconds of each answered request, by task, and the statuses that were not 200."""

    latencies: dict[str, list[float]] = field(default_factory=dict)
    errors: list[int] = field(default_factory=list)
    elapsed_s: float = 0.0

    @property
    def answered(self) -> int:
        """The number of answered requests."""
        return sum(map(len, self.latencies.values()))


async def closed_loop(host: str, port: int, requests: Sequence[Request], clients: int, seconds: float) -> Outcome:
    """Sends `requests` round and round with `clients` connections for `seconds`. Each client waits for its answer."""
    outcome = Outcome()
    started = time.perf_counter()
    source = cycle(requests)
    await asyncio.gather(*(_client(host, port, source, started + seconds, outcome) for _ in range(clients)))
    outcome.elapsed_s = time.perf_counter() - started
    return outcome


async def _client(host: str, port: int, source: Iterator[Request], until: float, outcome: Outcome) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    while (sent := time.perf_counter()) < until:
        request = next(source)
        head = f"POST /v1/tasks/{request.task}/predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        writer.write(head.encode() + f"Content-Length: {len(request.body)}\r\n\r\n".encode() + request.body)
        status = await _read_response(reader)
        if status == 200:
            outcome.latencies.setdefault(request.task, []).append(time.perf_counter() - sent)
        else:
            outcome.errors.append(status)
    writer.close()
    await writer.wait_closed()


async def _read_response(reader: asyncio.StreamReader) -> int:
    """Reads one response to its end and returns its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1])
