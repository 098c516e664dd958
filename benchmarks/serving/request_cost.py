"""Processor time of a request without the forward: HTTP, validation, tokenisation, queue, decoding.

    python -m benchmarks.serving.request_cost DATA [--clients 64] [--texts 1,32]

The service runs on `idle_runner`. Its processor time is divided by the number of answered requests.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.serving import results
from benchmarks.serving.load import ask, closed_loop
from benchmarks.serving.servers import free_port, processor_s, running
from benchmarks.serving.systems import find
from benchmarks.serving.workload import groups, read_rows

_WARM_UP_S = 2.0


def main(
    data: Annotated[Path, typer.Argument(help="The data folder that the checkpoint was trained from.")],
    texts: Annotated[str, typer.Option(help="In a request, with commas.")] = "1,32",
    clients: Annotated[int, typer.Option(help="Of a closed loop.")] = 64,
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 8,
    model: Annotated[str, typer.Option(help="The version to serve.")] = "demo",
) -> None:
    """Measures, prints a table and adds a line for each row of it to results/request_cost.jsonl."""
    rows, system, port, lines = read_rows(model, data, 8), find("polytask"), free_port(), []
    variables = {"POLYTASK_MODEL": model, "POLYTASK_PORT": str(port), "POLYTASK_TOKEN_BUDGET": "4096"}
    command = [sys.executable, "-m", "benchmarks.serving.idle_runner"]
    single = system.request(rows[:1])
    with running(command, variables, port, lambda port: ask(port, single).status == 200) as server:
        for size in map(int, texts.split(",")):
            requests = [system.request(group) for group in groups(rows, size)]
            asyncio.run(closed_loop(port, requests, clients, _WARM_UP_S, 0))
            before = processor_s(server.process)
            outcome = asyncio.run(closed_loop(port, requests, clients, seconds, 0))
            answered = outcome.statuses[200]
            spent_ms = 1000 * (processor_s(server.process) - before) / answered
            line = {"texts_per_request": size, "requests_per_s": answered / seconds, "service_ms": spent_ms}
            lines.append({**line, "client_ms": outcome.client_ms})
    results.append("request_cost", lines)
    headings = ["texts a request", "requests/s", "service, ms a request", "client, ms a request"]
    results.show("without the forward", headings, [[f"{value:.3g}" for value in line.values()] for line in lines])


if __name__ == "__main__":
    typer.run(main)
