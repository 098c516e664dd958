"""Bounds: the memory, processor time and time that one connection without a key, or one request with a key, can cost.

    python -m benchmarks.serving.bounds [--seconds 15] [--frontends 2] [--only trailers]

Every case meets a fresh service with its defaults and one key. Processor time counts until the service is idle again, so
work that goes on after the answer is in it; memory is the largest growth of all its processes. `stall` is the longest that
another client waited for /livez meanwhile, `after` the seconds of work after the answer or the end of the connection.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import psutil
import typer

from benchmarks.serving import results
from benchmarks.serving.attacks import Call, Stream, calls, streams
from benchmarks.serving.servers import Server, polytask
from polytask.service.config.api_keys import new_key

_PROBE_S = 0.1
_IDLE_CPU_S = 0.15
"""Processor seconds in a second below which a service counts as idle; the probes take some."""

_MOST_AFTER_S = 150
_TIMEOUT_S = 120
_READ = 1 << 20


def main(
    seconds: Annotated[float, typer.Option(help="That a connection may go on sending.")] = 15,
    only: Annotated[str, typer.Option(help="Cases whose name has this in it.")] = "",
    frontends: Annotated[int, typer.Option(help="HTTP processes; 0 for one process.")] = 0,
    model: Annotated[str, typer.Option(help="The version to serve.")] = "demo",
) -> None:
    """Prints a table and adds its lines to results/bounds.jsonl."""
    every: list[Stream | Call] = [*streams(), *calls()]
    cases = [case for case in every if only in case.name]
    lines = []
    for number, case in enumerate(cases, start=1):
        print(f"{number} of {len(cases)}: {case.name}", file=sys.stderr, flush=True)
        line: dict[str, Any] = {"case": case.name, "key": isinstance(case, Call), "frontends": frontends}
        lines.append(line | _measured(case, seconds, frontends, model))
    results.append("bounds", lines)
    headings = ["case", "sent kB", "received kB", "end", "s", "processor s", "after s", "memory MB", "stall ms"]
    rows = [
        [
            line["case"],
            *(results.number(line[name]) for name in ("sent_kb", "received_kb")),
            line["end"],
            *(results.number(line[name], 1) for name in ("seconds", "cpu_s", "after_s")),
            *(results.number(line[name]) for name in ("memory_mb", "stall_ms")),
        ]
        for line in lines
    ]
    results.show("one connection without a key, one request with a key", headings, rows)


def _measured(case: Stream | Call, seconds: float, frontends: int, model: str) -> dict[str, Any]:
    secret, line = new_key("bounds")
    flags = ["--frontends", str(frontends)] if frontends else []
    with polytask(model, *flags, POLYTASK_API_KEYS=line) as server:
        watch = _Watch(server)
        with watch:
            started = time.perf_counter()
            outcome = _send(case, server.port, seconds) if isinstance(case, Stream) else _ask(case, server.port, secret)
            outcome["seconds"] = time.perf_counter() - started
            outcome["after_s"] = watch.until_idle()
        return outcome | watch.found()


class _Watch:
    """Follows memory and processor time of a service, and how long it lets a probe wait."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._processes = [server.process, *server.process.children(recursive=True)]
        self._start_mb = self._most_mb = server.memory_mb()
        self._start_cpu_s = self._cpu_s()
        self._stall_s = 0.0
        self._done = threading.Event()
        self._threads = [threading.Thread(target=part) for part in (self._sample, self._probe)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def until_idle(self) -> float:
        """Seconds until the service does no more work; at most `_MOST_AFTER_S`."""
        started = quiet = time.perf_counter()
        spent = self._cpu_s()
        while time.perf_counter() - started < _MOST_AFTER_S:
            time.sleep(1)
            now = self._cpu_s()
            if now - spent < _IDLE_CPU_S:
                break
            spent, quiet = now, time.perf_counter()
        return quiet - started

    def found(self) -> dict[str, float]:
        """What it has seen."""
        memory, cpu = self._most_mb - self._start_mb, self._cpu_s() - self._start_cpu_s
        return {"memory_mb": memory, "cpu_s": cpu, "stall_ms": 1000 * self._stall_s}

    def _sample(self) -> None:
        while not self._done.wait(0.05):
            self._most_mb = max(self._most_mb, self._server.memory_mb())

    def _probe(self) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{self._server.port}", timeout=_TIMEOUT_S) as client:
            while not self._done.wait(_PROBE_S):
                started = time.perf_counter()
                with contextlib.suppress(httpx.HTTPError):
                    client.get("/livez")
                self._stall_s = max(self._stall_s, time.perf_counter() - started)

    def _cpu_s(self) -> float:
        spent = 0.0
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                spent += times.user + times.system
        return spent


def _send(stream: Stream, port: int, seconds: float) -> dict[str, Any]:
    """Sends until the other side closes or the time is over."""
    end, sent, received, first = time.perf_counter() + seconds, 0, 0, b""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setblocking(False)
        for part in _padded(stream.wire()):
            due, rest = time.perf_counter() + (stream.pause_s if part else _PROBE_S), memoryview(part)
            while (rest or time.perf_counter() < due) and time.perf_counter() < end:
                wanted = [connection] if rest else []
                readable, writable, _ = select.select([connection] if stream.reads else [], wanted, [], 0.1)
                try:
                    if readable:
                        data = connection.recv(_READ)
                        received, first = received + len(data), first or data[:12]
                        if not data:
                            raise ConnectionError
                    if writable:
                        done = connection.send(rest)
                        sent, rest = sent + done, rest[done:]
                except OSError:
                    return _outcome(sent, received, f"closed {_status(first)}")
            if time.perf_counter() >= end:
                break
    return _outcome(sent, received, f"open {_status(first)}")


def _padded(wire: Iterator[bytes]) -> Iterator[bytes]:
    """The parts, then nothing without end: the client only waits."""
    yield from wire
    while True:
        yield b""


def _ask(call: Call, port: int, secret: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json", **call.headers}
    try:
        response = httpx.post(
            f"http://127.0.0.1:{port}{call.path}", content=call.body, headers=headers, timeout=_TIMEOUT_S
        )
    except httpx.HTTPError as error:
        return _outcome(len(call.body), 0, type(error).__name__)
    return _outcome(len(call.body), len(response.content), str(response.status_code))


def _outcome(sent: int, received: int, end: str) -> dict[str, Any]:
    return {"sent_kb": sent / 1000, "received_kb": received / 1000, "end": end.strip()}


def _status(first: bytes) -> str:
    return first[9:12].decode("latin-1")


if __name__ == "__main__":
    typer.run(main)
