"""Soak: ordinary, odd, aborted, large and junk traffic at once for a long time, and what it leaves behind.

    python -m benchmarks.serving.soak [--minutes 20] [--frontends 2]

The service has its defaults and one key. Checked: no server error but 503 and 504 with their problem types, ordinary
requests answered to the end, memory, open files and threads of the last quarter not above those of the second, and the
size of the log.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import select
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import httpx
import psutil
import typer

from benchmarks.serving import results
from benchmarks.serving.abuse import hostile, post, posting_paths, refused, unanswered
from benchmarks.serving.attacks import Stream, calls, streams
from benchmarks.serving.servers import Server, polytask
from polytask.service.config.api_keys import new_key

_STATED = {503, 504}
_LOG_BYTES = 1_000_000
_GROWTH = 1.05
_ORDINARY, _IDLE = 4, 200
_SENDS_S = 3.0
_TIMEOUT_S = 60


class Use(NamedTuple):
    """Resources of a service's processes, added up."""

    memory_mb: float
    files: int
    threads: int
    log_bytes: int


class Traffic:
    """Several kinds of clients at once, each in threads of its own, until `stop`."""

    def __init__(self, server: Server, secret: str) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.faults: list[str] = []
        self._port = server.port
        self._headers = {"Authorization": f"Bearer {secret}"}
        self._done = threading.Event()
        with self._client() as client:
            self._tasks = client.get("/v1/tasks").json()["tasks"]
        kinds: list[Callable[[], None]] = [self._ordinary] * _ORDINARY
        kinds += [self._large, self._bodies, self._aborted, self._junk, self._junk, self._idle]
        self._threads = [threading.Thread(target=self._guarded, args=(kind,)) for kind in kinds]

    def start(self) -> None:
        """Begins."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends all clients and waits for them."""
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, kind: Callable[[], None]) -> None:
        while not self._done.is_set():
            try:
                kind()
            except (httpx.HTTPError, OSError) as error:
                self.answers[kind.__name__.strip("_"), 0] += 1
                # A refused request may be read no further, which a client can see as a reset while it sends.
                if kind == self._ordinary:
                    self.faults.append(f"ordinary: {error!r}")
                self._done.wait(0.5)

    def _ordinary(self) -> None:
        with self._client() as client:
            for task in itertools.cycle(random.sample(self._tasks, len(self._tasks))):
                if self._done.is_set():
                    return
                self._count("ordinary", client.post(f"/v1/tasks/{task['name']}/predict", json=task["example"]))

    def _large(self) -> None:
        with self._client() as client:
            for call in calls():
                if not self._done.wait(1):
                    self._count("large", client.post(call.path, content=call.body, headers=call.headers))

    def _bodies(self) -> None:
        with self._client() as client:
            paths = itertools.cycle(posting_paths(client))
            for sent in hostile(500, seed=random.randrange(1 << 30)):
                if self._done.wait(0.1):
                    return
                wrong = refused(client, next(paths), sent)
                self.answers["bodies", 400] += wrong is None
                if wrong is not None:
                    self.faults.append(wrong)

    def _aborted(self) -> None:
        key = self._headers["Authorization"]
        task = random.choice(self._tasks)
        wire = post(f"/v1/tasks/{task['name']}/predict", task["example"])
        wire = wire.replace(b"Host: test\r\n", f"Host: test\r\nAuthorization: {key}\r\n".encode())
        cut = random.randrange(len(wire) // 2, len(wire) + 1)
        with unanswered(self._port, [wire[:cut]] * 10):
            self._done.wait(random.uniform(0, 0.2))

    def _junk(self) -> None:
        for stream in random.sample(streams(), len(streams())):
            if self._done.is_set():
                return
            with contextlib.suppress(OSError):
                _send(stream, self._port, self._done)
            self.answers["junk", 0] += 1

    def _idle(self) -> None:
        with contextlib.ExitStack() as connections:
            for _ in range(_IDLE):
                connections.enter_context(socket.create_connection(("127.0.0.1", self._port), timeout=_TIMEOUT_S))
            self._done.wait(20)

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self._port}", headers=self._headers, timeout=_TIMEOUT_S)

    def _count(self, kind: str, response: httpx.Response) -> None:
        self.answers[kind, response.status_code] += 1
        stated = response.status_code in _STATED and b"urn:polytask:" in response.content
        if response.status_code >= 500 and not stated:
            self.faults.append(f"{kind}: {response.status_code} {response.text[:200]}")


def main(
    minutes: Annotated[float, typer.Option(help="Of traffic.")] = 20,
    frontends: Annotated[int, typer.Option(help="HTTP processes; 0 for one process.")] = 0,
    model: Annotated[str, typer.Option(help="The version to serve.")] = "demo",
) -> None:
    """Prints a line a minute and the result. Exit code 1 if a check fails."""
    secret, line = new_key("soak")
    flags = ["--frontends", str(frontends)] if frontends else []
    uses: list[Use] = []
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        polytask(model, *flags, written=log, POLYTASK_API_KEYS=line) as server,
    ):
        traffic, started = Traffic(server, secret), time.monotonic()
        traffic.start()
        while time.monotonic() - started < 60 * minutes:
            time.sleep(min(60, 15 * minutes))
            uses.append(_use(server, log.fileno()))
            print(f"{(time.monotonic() - started) / 60:.1f} min: {uses[-1]._asdict()}", flush=True)
        traffic.stop()
        end = _use(server, log.fileno())
        print(f"after the traffic: {end._asdict()}")
    faults = traffic.faults + _growth(uses)
    if end.log_bytes > _LOG_BYTES:
        faults.append(f"the log has {end.log_bytes} bytes")
    answers: dict[str, dict[int, int]] = {}
    for (kind, status), number in sorted(traffic.answers.items()):
        answers.setdefault(kind, {})[status] = number
    print(f"answers by kind and status (0: none): {answers}")
    print(f"faults: {len(faults)}", *faults[:20], sep="\n  ")
    found: dict[str, Any] = {"minutes": minutes, "frontends": frontends, "faults": len(faults), "answers": answers}
    results.append("soak", [found | {"first": uses[0]._asdict(), "last": uses[-1]._asdict()}])
    if faults:
        raise typer.Exit(1)


def _send(stream: Stream, port: int, done: threading.Event) -> None:
    """Sends for a few seconds or until the other side closes."""
    end = time.monotonic() + _SENDS_S
    with socket.create_connection(("127.0.0.1", port), timeout=_SENDS_S) as connection:
        for part in stream.wire():
            if time.monotonic() > end or done.wait(stream.pause_s or 0.01):
                return
            connection.sendall(part)
            if stream.reads and select.select([connection], [], [], 0)[0] and not connection.recv(1 << 20):
                return


def _growth(uses: list[Use]) -> list[str]:
    """What is higher in the last quarter than it ever was in the second."""
    quarter = len(uses) // 4
    if not quarter:
        return []
    early, late = uses[quarter : 2 * quarter], uses[-quarter:]
    found = []
    for name in ("memory_mb", "files", "threads"):
        before, after = (max(getattr(use, name) for use in part) for part in (early, late))
        if after > _GROWTH * before:
            found.append(f"{name} grew from {before:g} to {after:g}")
    return found


def _use(server: Server, log: int) -> Use:
    threads = 0
    for process in [server.process, *server.process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            threads += process.num_threads()
    return Use(round(server.memory_mb(), 1), server.open_files(), threads, os.fstat(log).st_size)


if __name__ == "__main__":
    typer.run(main)
