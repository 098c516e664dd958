"""Duration of each stage of a request at a steady rate, from the service's log, beside the latency at clients.

python -m benchmarks.serving.stages DATA [--rate 240] [--seconds 12]
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.serving import results
from benchmarks.serving.load import Outcome, Request, ask, open_loop, percentile
from benchmarks.serving.servers import free_port, running
from benchmarks.serving.systems import find
from benchmarks.serving.workload import read_rows

_WARM_UP_S = 3.0
_SHARES = (0.5, 0.9, 0.99)
_SLOWEST = 20


def main(
    data: Annotated[Path, typer.Argument(help="The data folder that the checkpoint was trained from.")],
    rate: Annotated[float, typer.Option(help="Requests a second, at random times.")] = 240,
    seconds: Annotated[float, typer.Option(help="Of the measurement.")] = 12,
    model: Annotated[str, typer.Option(help="The version to serve; other settings are POLYTASK_ variables.")] = "demo",
) -> None:
    """Measures, prints a table and adds a line for each row of it to results/stages.jsonl."""
    system = find("polytask")
    requests = [system.request([row]) for row in read_rows(model, data, 8)]
    outcome, log = _logged(requests, model, rate, seconds)
    # The last ones, as those before were to warm up.
    log = [line for line in log if "postprocess" in line.get("stages", {})][-len(outcome.counted) :]
    taken = {stage: [line["stages"][stage] for line in log] for stage in log[0]["stages"]}
    taken["all else"] = [line["seconds"] - sum(line["stages"].values()) for line in log]
    taken["all of it"] = [line["seconds"] for line in log]
    rows = {name: [1000 * percentile(values, share) for share in _SHARES] for name, values in taken.items()}
    rows["as clients see it"] = [outcome.latency_ms(share) for share in _SHARES]
    results.append("stages", ({"stage": name, "rate": rate, "p50_p90_p99_ms": values} for name, values in rows.items()))
    headings = ["ms", *(f"p{100 * share:.0f}" for share in _SHARES)]
    results.show("stages", headings, [[name, *(f"{value:.1f}" for value in values)] for name, values in rows.items()])
    slowest = sorted(log, key=lambda line: -line["seconds"])[:_SLOWEST]
    print(f"tasks of the {_SLOWEST} slowest: {', '.join(line['task'] for line in slowest)}")


def _logged(
    requests: list[Request], model: str, rate: float, seconds: float
) -> tuple[Outcome, list[Mapping[str, Any]]]:
    """The load, and the request log of the service."""
    port = free_port()
    variables = {"POLYTASK_MODEL": model, "POLYTASK_LOG_FORMAT": "json", "POLYTASK_LOG_REQUESTS": "1"}
    command = [sys.executable, "-m", "polytask", "serve", "--port", str(port)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        with running(command, variables, port, lambda port: ask(port, requests[0]).status == 200, log):
            outcome = asyncio.run(open_loop(port, requests, rate, seconds, _WARM_UP_S))
        log.seek(0)
        lines = [json.loads(line) for line in log if line.startswith("{")]
    return outcome, [line for line in lines if line["event"] == "request"]


if __name__ == "__main__":
    typer.run(main)
