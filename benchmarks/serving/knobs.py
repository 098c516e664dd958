"""Effect of each setting on throughput and latency: one changed at a time, under the same loads.

    python -m benchmarks.serving.knobs DATA [--knobs streams,runner] [--seconds 8]

Three loads: a lone client, 64 clients (the peak), and requests at random times at a share of the peak that the service has
with nothing changed, which is measured first. Texts, cores and clients are those of `compare`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.serving import results
from benchmarks.serving.load import Request, ask, closed_loop, open_loop
from benchmarks.serving.servers import batches, free_port, means, running
from benchmarks.serving.systems import find
from benchmarks.serving.workload import groups, read_rows

_WARM_UP_S = 3.0
_CLIENTS = 64

KNOBS: Mapping[str, tuple[Mapping[str, str], ...]] = {
    "runner": ({"runner": "openvino"}, {"runner": "torch"}),
    "streams": ({"streams": "1"},),
    "threads": ({"threads": "1"},),
    "batch_ms": ({"batch_ms": "3"}, {"batch_ms": "100"}),
    "token_budget": ({"token_budget": "64"}, {"token_budget": "4096"}),
    "max_rows": ({"max_rows": "1"}, {"max_rows": "4"}),
    "frontends": ({"frontends": "1"}, {"frontends": "2"}),
    "log_requests": ({"log_requests": "1"},),
    "prediction_metrics": ({"prediction_metrics": "yes"},),
}
"""What is changed, by the name of the setting."""


@dataclass(frozen=True, slots=True)
class Line:
    """One way to run the service. Rates in texts a second; `rows`: in a batch at the peak; memory at its highest."""

    changed: str
    alone_p50_ms: float
    peak: float
    rows: float
    p50_ms: float
    p99_ms: float
    memory_mb: float


def main(
    data: Annotated[Path, typer.Argument(help="The data folder that the checkpoint was trained from.")],
    knobs: Annotated[str, typer.Option(help="Settings to change, with commas.")] = ",".join(KNOBS),
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 8,
    share: Annotated[float, typer.Option(help="Of the peak with nothing changed.")] = 0.6,
    texts: Annotated[int, typer.Option(help="In a request.")] = 1,
    model: Annotated[str, typer.Option(help="The version to serve.")] = "demo",
) -> None:
    """Measures, prints a table and adds a line for each row of it to results/knobs.jsonl."""
    system, rows = find("polytask"), read_rows(model, data, 8)
    requests = [system.request(group) for group in groups(rows, texts)]
    lines: list[Line] = []
    for changed in ({}, *(one for knob in knobs.split(",") for one in KNOBS[knob])):
        lines.append(_measure(requests, model, changed, lines[0].peak if lines else None, share, seconds))
        print(lines[-1], file=sys.stderr)
    results.append("knobs", ({**asdict(line), "share": share, "texts_per_request": texts} for line in lines))
    headings = ["changed", "a lone client, p50 ms", "peak, texts/s", "rows a batch"]
    headings += [f"at {share:.0%} of the first peak, p50 ms", "p99 ms", "memory, MB"]
    results.show("settings", headings, [[line.changed, *map(_cell, list(asdict(line).values())[1:])] for line in lines])


def _measure(
    requests: list[Request],
    model: str,
    changed: Mapping[str, str],
    peak: float | None,
    share: float,
    seconds: float,
) -> Line:
    """Measures the service with this change. `peak`: of the first line; None for that line."""
    port = free_port()
    variables = {f"POLYTASK_{name.upper()}": value for name, value in {"model": model, **changed}.items()}
    command = [sys.executable, "-m", "polytask", "serve", "--port", str(port)]
    with running(command, variables, port, lambda port: ask(port, requests[0]).status == 200) as server:
        alone = asyncio.run(closed_loop(port, requests, 1, seconds / 2, _WARM_UP_S))
        before = batches(server.scrape())
        full = asyncio.run(closed_loop(port, requests, _CLIENTS, seconds, _WARM_UP_S))
        after = batches(server.scrape())
        rate = share * (full.texts_per_s if peak is None else peak) / requests[0].texts
        paced = asyncio.run(open_loop(port, requests, rate, seconds, _WARM_UP_S))
        return Line(
            " ".join(f"{name}={value}" for name, value in changed.items()) or "nothing",
            alone.latency_ms(0.5),
            full.texts_per_s,
            means({name: after[name] - before[name] for name in after})["rows"],
            paced.latency_ms(0.5),
            paced.latency_ms(0.99),
            server.peak_memory_mb(),
        )


def _cell(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    typer.run(main)
