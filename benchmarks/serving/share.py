"""Throughput over HTTP as a share of that of the model alone, on the same texts and cores, in turns.

    python -m benchmarks.serving.share DATA [--clients 1,16,64] [--texts 1] [--rounds 5]

The model alone runs sorted batches of the size that is best for it. A round is the model alone and then each number of
clients, a closed loop that shares the cores; the share of a round is that of the mean of the model's speeds before and
after it.
"""

from __future__ import annotations

import asyncio
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.serving import results
from benchmarks.serving.alone import Alone
from benchmarks.serving.load import closed_loop
from benchmarks.serving.servers import batches, means, polytask
from benchmarks.serving.systems import find
from benchmarks.serving.workload import groups, read_rows
from polytask.service.config.settings import Settings

_SIZES = (4, 8, 16)
_WARM_UP_S = 1.0


def main(
    data: Annotated[Path, typer.Argument(help="The data folder that the checkpoint was trained from.")],
    clients: Annotated[str, typer.Option(help="Of closed loops, with commas.")] = "1,16,64",
    texts: Annotated[int, typer.Option(help="In a request.")] = 1,
    rounds: Annotated[int, typer.Option(help="Of everything.")] = 5,
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 5,
    model: Annotated[str, typer.Option(help="The version to serve.")] = "demo",
) -> None:
    """Measures, prints a table and adds a line for each row of it to results/share.jsonl."""
    rows, numbers = read_rows(model, data, 8), [int(word) for word in clients.split(",")]
    requests = [find("polytask").request(group) for group in groups(rows, texts)]
    alone = Alone(Settings(model=model), rows)
    size = max(_SIZES, key=lambda size: alone.texts_per_s(size, seconds))
    raw, found = list[float](), {number: list[float]() for number in numbers}
    details: dict[int, dict[str, float]] = {}
    with polytask(model) as server:
        for _ in range(rounds):
            raw.append(alone.texts_per_s(size, seconds))
            for number in numbers:
                before = batches(server.scrape())
                outcome = asyncio.run(closed_loop(server.port, requests, number, seconds, _WARM_UP_S))
                found[number].append(outcome.texts_per_s)
                details[number] = means({k: value - before[k] for k, value in batches(server.scrape()).items()})
        raw.append(alone.texts_per_s(size, seconds))
    lines = [
        {"texts_per_request": texts, "clients": number, **_share(found[number], raw), **details[number]}
        for number in numbers
    ]
    results.append("share", [{"engine": alone.engine, "rows_alone": size, **line} for line in lines])
    headings = ["clients", "texts/s", "the model alone", "share", "lowest", "highest", "rows a batch"]
    keys = ["texts_per_s", "alone_per_s", "share_percent", "least_percent", "most_percent", "rows"]
    cells = [[str(line["clients"]), *(results.number(line.get(key), 1) for key in keys)] for line in lines]
    results.show(f"{texts} texts a request, {alone.engine}, {size} rows a batch alone", headings, cells)


def _share(found: list[float], raw: list[float]) -> dict[str, Any]:
    """Of the rounds: the median of the speeds and of the shares, and the extremes of these."""
    beside = [(before + after) / 2 for before, after in pairwise(raw)]
    shares = [100 * own / other for own, other in zip(found, beside, strict=True)]
    return {
        "texts_per_s": statistics.median(found),
        "alone_per_s": statistics.median(raw),
        "share_percent": statistics.median(shares),
        "least_percent": min(shares),
        "most_percent": max(shares),
    }


if __name__ == "__main__":
    typer.run(main)
