"""Fairness: how long an interactive client waits beside a bulk client at full speed on another task.

    python -m benchmarks.serving.fairness DATA [--seconds 30]

The interactive client sends single texts at random times, few enough that they do not wait for each other; its time is
told in batches: milliseconds over those of a mean forward, as the service counts them. The bulk client has some
connections, each with the next request of many texts as soon as the last is answered.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.serving import results
from benchmarks.serving.load import Outcome, closed_loop, open_loop
from benchmarks.serving.servers import batches, means, polytask
from benchmarks.serving.systems import find
from benchmarks.serving.workload import groups, read_rows

_WARM_UP_S = 3


def main(
    data: Annotated[Path, typer.Argument(help="The data folder that the checkpoint was trained from.")],
    seconds: Annotated[float, typer.Option(help="Alone, and then beside the bulk client.")] = 30,
    rate: Annotated[float, typer.Option(help="Interactive requests a second.")] = 5,
    connections: Annotated[int, typer.Option(help="Of the bulk client.")] = 4,
    texts: Annotated[int, typer.Option(help="In one of its requests.")] = 64,
    interactive: Annotated[str, typer.Option(help="Task of the interactive client.")] = "intent",
    bulk: Annotated[str, typer.Option(help="Task of the bulk client.")] = "toxicity",
    model: Annotated[str, typer.Option(help="The version to serve.")] = "demo",
) -> None:
    """Measures, prints a table and adds a line to results/fairness.jsonl."""
    rows, system = read_rows(model, data, 8), find("polytask")
    single = [system.request([row]) for row in rows if row.task.name == interactive]
    many = [system.request(own) for own in groups([row for row in rows if row.task.name == bulk], texts)]

    async def both(port: int) -> tuple[Outcome, Outcome]:
        return await asyncio.gather(
            open_loop(port, single, rate, seconds, _WARM_UP_S),
            closed_loop(port, many, connections, seconds, _WARM_UP_S),
        )

    with polytask(model) as server:
        alone = asyncio.run(open_loop(server.port, single, rate, seconds, _WARM_UP_S))
        before = batches(server.scrape())
        beside, hurry = asyncio.run(both(server.port))
        ran = means({name: value - before[name] for name, value in batches(server.scrape()).items()})
    line = {
        "interactive_alone_p99_ms": alone.latency_ms(0.99),
        "interactive_p50_ms": beside.latency_ms(0.5),
        "interactive_p99_ms": beside.latency_ms(0.99),
        "interactive_p99_batches": beside.latency_ms(0.99) / ran["forward_ms"],
        "bulk_texts_per_s": hurry.texts_per_s,
        **ran,
        "requests": len(beside.counted),
        "statuses": {"interactive": beside.statuses, "bulk": hurry.statuses},
    }
    results.append("fairness", [line])
    rendered = [
        (name.replace("_", " "), results.number(v, 2) if isinstance(v, float) else str(v)) for name, v in line.items()
    ]
    results.show(f"{bulk} in bulk beside {interactive}; goal: p99 within 3 batches", ["", ""], rendered)


if __name__ == "__main__":
    typer.run(main)
