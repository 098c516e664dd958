"""Overload at ten times the peak: the answers that remain, the speed of refusals, and whether Retry-After is right.

    python -m benchmarks.serving.overload DATA [--seconds 60] [--times 10] [--texts 1]

Finds the peak with a closed loop, then sends at a multiple of it in an open loop; how much of that the generator was able
to send is in the table, as it shares the cores. Then, a few times over: fills the line
again, lets a large request be refused, and tries it again and again with nobody else about. The time until it is taken
is what Retry-After should have said; the header counts whole seconds, so what is taken at once may be said to take one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.serving import results
from benchmarks.serving.load import LOST, Connection, Outcome, Request, closed_loop, open_loop
from benchmarks.serving.servers import Server, polytask
from benchmarks.serving.systems import find
from benchmarks.serving.workload import groups, read_rows

_CLIENTS = 64
_FACTOR = 2.0
_PROBE_SIZES = (64, 128, 256)
_PROBE_EVERY_S = 0.02
_FILLING_S = 3.0
_REFUSED = (429, 503)


@dataclass(frozen=True, slots=True)
class Promise:
    """The Retry-After of a refusal, and how long it took until the same request was accepted; in seconds."""

    texts: int
    said_s: float
    taken_s: float

    @property
    def kept(self) -> bool:
        """Whether it was right within a factor of two; a header of 1 also means `at once`."""
        return self.taken_s <= _FACTOR * self.said_s and (self.said_s <= 1 or self.taken_s >= self.said_s / _FACTOR)


def main(
    data: Annotated[Path, typer.Argument(help="The data folder that the checkpoint was trained from.")],
    seconds: Annotated[float, typer.Option(help="Of the overload.")] = 60,
    times: Annotated[float, typer.Option(help="The peak.")] = 10,
    texts: Annotated[int, typer.Option(help="In a request.")] = 1,
    peak_seconds: Annotated[float, typer.Option(help="Of the search for the peak.")] = 15,
    rounds: Annotated[int, typer.Option(help="Of the test of Retry-After.")] = 2,
    model: Annotated[str, typer.Option(help="The version to serve.")] = "demo",
) -> None:
    """Measures, prints a table and adds a line to results/overload.jsonl."""
    rows, system = read_rows(model, data, 8), find("polytask")
    requests = [system.request(group) for group in groups(rows, texts)]
    one_task = [row for row in rows if row.task == rows[0].task]
    probes = [system.request(groups(one_task, size)[0]) for size in _PROBE_SIZES if size <= len(one_task)]
    with polytask(model) as server:
        peak = asyncio.run(closed_loop(server.port, requests, _CLIENTS, peak_seconds, warm_up_s=3))
        rate = times * peak.texts_per_s / texts
        with _watched(server) as memory_mb:
            overload = asyncio.run(open_loop(server.port, requests, rate, seconds))
        promises = [
            promise
            for probe in probes * rounds
            if (promise := asyncio.run(_retry(server.port, requests, rate, probe))) is not None
        ]
    sent_share = len(overload.counted) / (rate * seconds)
    line = {"texts_per_request": texts, "sent_share": sent_share, **_line(peak, overload, memory_mb, promises)}
    results.append("overload", [line])
    results.show(
        f"{times:g} times {peak.texts_per_s:.0f} texts/s for {seconds:g} s, {texts} a request",
        ["", "", "goal"],
        _table(line),
    )


def _line(
    peak: Outcome, overload: Outcome, memory_mb: Sequence[float], promises: Sequence[Promise]
) -> dict[str, object]:
    third = max(1, len(memory_mb) // 3)
    return {
        "peak_texts_per_s": peak.texts_per_s,
        "accepted_texts_per_s": overload.texts_per_s,
        "statuses": overload.statuses,
        # A request that was taken ends with 200, or with 504 where its deadline passed; anything else is a loss.
        "lost": sum(count for status, count in overload.statuses.items() if status not in {200, 504, *_REFUSED}),
        "unanswered": overload.statuses.get(LOST, 0),
        "refusal_p50_ms": overload.wait_ms(0.5, *_REFUSED),
        "refusal_p99_ms": overload.wait_ms(0.99, *_REFUSED),
        "generator_late_p99_ms": overload.late_ms(0.99),
        "generator_ms_per_request": overload.client_ms,
        "accepted_p99_ms": overload.wait_ms(0.99),
        "memory_mb_first_third": max(memory_mb[:third], default=0.0),
        "memory_mb_last_third": max(memory_mb[-third:], default=0.0),
        "promises": [(promise.texts, promise.said_s, round(promise.taken_s, 2)) for promise in promises],
        "promises_kept": sum(promise.kept for promise in promises),
    }


def _table(line: dict[str, object]) -> list[tuple[str, str, str]]:
    def cell(name: str, digits: int = 0) -> str:
        return results.number(float(str(line[name])), digits)

    peak, accepted = float(str(line["peak_texts_per_s"])), float(str(line["accepted_texts_per_s"]))
    promises = line["promises"]
    assert isinstance(promises, list)
    return [
        ("of what was to be sent the generator has sent", f"{float(str(line['sent_share'])):.0%}", "100%"),
        ("accepted texts/s", f"{accepted:.0f} = {accepted / peak:.0%} of peak", "95%"),
        ("statuses", str(line["statuses"]), ""),
        ("lost", f"{line['lost']} (unanswered {line['unanswered']})", "0"),
        (
            "refusals, p50 / p99 ms after they were sent",
            f"{cell('refusal_p50_ms', 1)} / {cell('refusal_p99_ms', 1)}",
            "50",
        ),
        ("the generator's own lateness before that, p99 ms", cell("generator_late_p99_ms", 1), ""),
        ("the generator's processor time, ms a request", cell("generator_ms_per_request", 3), ""),
        ("accepted, p99 ms", cell("accepted_p99_ms"), ""),
        ("memory MB, first / last third", f"{cell('memory_mb_first_third')} / {cell('memory_mb_last_third')}", "flat"),
        ("Retry-After kept", f"{line['promises_kept']} of {len(promises)}", "all"),
        *((f"  {texts} texts", f"said {said:g} s, taken after {taken:g} s", "") for texts, said, taken in promises),
    ]


async def _retry(port: int, requests: Sequence[Request], rate: float, probe: Request) -> Promise | None:
    """Fills the queue, then sends `probe` until it is accepted. None where it was accepted at once."""
    filling = asyncio.create_task(open_loop(port, requests, rate, _FILLING_S))
    await asyncio.sleep(_FILLING_S)
    connection, said_s, refused = Connection(port), 0.0, 0.0
    try:
        while True:
            tried = time.perf_counter()
            response = await connection.ask(probe)
            if response.status not in _REFUSED:
                # It was taken when it was sent; the answer came when all of it had been run.
                return Promise(probe.texts, said_s, tried - refused) if said_s else None
            if not said_s:
                said_s, refused = response.retry_after_s or 0.0, tried
            await asyncio.sleep(_PROBE_EVERY_S)
    finally:
        connection.close()
        await filling


@contextmanager
def _watched(server: Server) -> Iterator[list[float]]:
    """The server's memory, once a second, while the block runs."""
    seen: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            seen.append(server.memory_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


if __name__ == "__main__":
    typer.run(main)
