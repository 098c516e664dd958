"""Cost of a row in an engine process without the forward: the limit that it sets for any device.

    python -m benchmarks.serving.engine_cost [--frontends 2] [--waiting 512] [--rows 1,32]

The engine runs on `idle_runner`. Processes send it rows as frontends do, as many requests at a time as `waiting` says.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import psutil
import typer

from benchmarks.serving import results
from benchmarks.serving.servers import processor_s
from benchmarks.serving.synthetic import lengths
from polytask.service.processes.child_process import METRICS, engine_socket
from polytask.service.processes.ipc import Answered, Connection, EncodedRow, Failed, Status, Submit, ToFrontend

_DEADLINE_S = 60.0
_DISTINCT = 997


class Sent(NamedTuple):
    """Results of one process: rows answered, requests refused, and its own processor time in seconds."""

    rows: int
    refused: int
    cpu_s: float


def main(
    rows: Annotated[str, typer.Option(help="In a request, with commas.")] = "1,32",
    frontends: Annotated[int, typer.Option(help="Processes that send.")] = 1,
    waiting: Annotated[int, typer.Option(help="Rows on their way, of all processes.")] = 1024,
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 6,
    model: Annotated[str, typer.Option(help="The version, for its tasks.")] = "demo",
) -> None:
    """Measures, prints a table and adds a line for each row of it to results/engine_cost.jsonl."""
    lines = []
    with (
        _engine(model) as (socket, engine),
        ProcessPoolExecutor(frontends, get_context("spawn")) as pool,
    ):
        for size in map(int, rows.split(",")):
            number = max(1, waiting // size // frontends)
            list(pool.map(_send, [(socket, size, number, 1.0)] * frontends))
            before, started = processor_s(engine), time.perf_counter()
            sent = list(pool.map(_send, [(socket, size, number, seconds)] * frontends))
            spent_s, elapsed = processor_s(engine) - before, time.perf_counter() - started
            answered = sum(one.rows for one in sent)
            assert not any(one.refused for one in sent), "the line was full: ask for less to wait"
            line = {"rows_per_request": size, "frontends": frontends, "rows_per_s": answered / elapsed}
            line |= {"engine_cores": spent_s / elapsed, "engine_us": 1e6 * spent_s / answered}
            lines.append({**line, "sender_us": 1e6 * sum(one.cpu_s for one in sent) / answered})
    results.append("engine_cost", lines)
    headings = ["rows a request", "processes", "rows/s", "cores of the engine", "engine, us a row", "sender, us a row"]
    results.show(
        "an engine without the forward", headings, [[f"{value:.3g}" for value in line.values()] for line in lines]
    )


@contextmanager
def _engine(model: str) -> Iterator[tuple[Path, psutil.Process]]:
    """A running engine, its socket and its process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / METRICS).mkdir()
        variables = {"POLYTASK_MODEL": model, "POLYTASK_TOKEN_BUDGET": "8192", "POLYTASK_MAX_ROWS": "256"}
        popen = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.idle_engine", name, "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **variables},
        )
        assert popen.stdin is not None
        assert popen.stdout is not None
        try:
            assert b"ready" in popen.stdout.readline(), "the engine does not start"
            yield engine_socket(folder, 0), psutil.Process(popen.pid)
        finally:
            popen.stdin.close()
            popen.wait()


def _send(how: tuple[Path, int, int, float]) -> Sent:
    return asyncio.run(_closed_loop(*how))


async def _closed_loop(socket: Path, size: int, number: int, seconds: float) -> Sent:
    """Keeps `number` requests of `size` rows in flight."""
    drawn = random.Random(0)
    rows = cycle(
        EncodedRow(drawn.randrange(4), tuple(drawn.choices(range(1000, 30_000), k=length)), (0,) * length, 0)
        for length in lengths(_DISTINCT)
    )
    loop = asyncio.get_running_loop()
    ready, over = asyncio.Event(), asyncio.Event()
    began, cpu_s, done, refused, last = loop.time(), time.process_time(), 0, 0, 0
    waiting = set[int]()

    def submit(connection: Connection[ToFrontend]) -> None:
        nonlocal last
        last += 1
        waiting.add(last)
        own = tuple(next(rows) for _ in range(size))
        connection.send([Submit(last, time.monotonic() + _DEADLINE_S, own)])

    def received(connection: Connection[ToFrontend], message: ToFrontend) -> None:
        nonlocal done, refused
        match message:
            case Status():
                ready.set()
                return
            case Answered(request, rows=answered):
                done += len(answered)
            case Failed(request):
                refused += 1
        waiting.remove(request)
        if loop.time() - began < seconds:
            submit(connection)
        elif not waiting:
            over.set()

    decoder: msgspec.msgpack.Decoder[ToFrontend] = msgspec.msgpack.Decoder(ToFrontend)
    _, connection = await loop.create_unix_connection(
        lambda: Connection(decoder, received, lambda _: over.set()), str(socket)
    )
    await ready.wait()
    for _ in range(number):
        submit(connection)
    await over.wait()
    connection.close()
    return Sent(done, refused, time.process_time() - cpu_s)


if __name__ == "__main__":
    typer.run(main)
