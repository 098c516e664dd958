"""Fairness beside long texts: the rate that an ordinary client keeps while others send the longest texts they may.

    python -m benchmarks.serving.beside_long_texts [--seconds 20]

The ordinary client has one connection and sends single short texts, each after the last answer. Its fair share beside N others is
the N+1st part of its rate alone. The service has the first core to itself and all clients the second one, if there are two.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Annotated

import typer

from benchmarks.serving import results
from benchmarks.serving.load import Outcome, Request, closed_loop
from benchmarks.serving.servers import polytask, processor_s

_WARM_UP_S = 3
_TEXT_BYTES = 500_000

LONG = {
    "words": ("intent", "a ", {}),
    "one word": ("intent", "a", {}),
    "signs, tagged": ("entities", "@", {}),
    "words, tagged": ("entities", "cat ", {}),
    "signs, end": ("intent", "@", {"truncation": "left"}),
    "windows": ("emotions", "a ", {"truncation": "window"}),
}
"""What the others send: a task, what their text repeats, and options."""


def main(
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 20,
    others: Annotated[int, typer.Option(help="Clients that send long texts.")] = 2,
    model: Annotated[str, typer.Option(help="The version to serve.")] = "demo",
) -> None:
    """Measures, prints a table and adds a line for each sort of long text to results/beside_long_texts.jsonl."""
    ordinary = [_request("intent", "Where is my card?", {})]
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    with polytask(model, "--threads", "1") as server:
        os.sched_setaffinity(0, cores[1:] or cores)

        async def beside(request: Request) -> tuple[Outcome, Outcome]:
            return await asyncio.gather(
                closed_loop(server.port, ordinary, 1, seconds, _WARM_UP_S),
                closed_loop(server.port, [request], others, seconds, _WARM_UP_S),
            )

        lines = []
        for sort, (task, sign, options) in LONG.items():
            alone = asyncio.run(closed_loop(server.port, ordinary, 1, seconds, _WARM_UP_S)).texts_per_s
            before = processor_s(server.process)
            kept, disturbing = asyncio.run(beside(_request(task, sign * (_TEXT_BYTES // len(sign)), options)))
            lines.append(
                {
                    "long_texts": sort,
                    "alone_per_s": alone,
                    "beside_per_s": kept.texts_per_s,
                    "of_fair_share": kept.texts_per_s / (alone / (1 + others)),
                    "p50_ms": kept.latency_ms(0.5),
                    "p99_ms": kept.latency_ms(0.99),
                    "long_texts_per_s": len(disturbing.counted) / seconds,
                    "busy": (processor_s(server.process) - before) / (seconds + _WARM_UP_S),
                    "statuses": {"ordinary": kept.statuses, "long": disturbing.statuses},
                    "memory_mb": server.memory_mb(),
                }
            )
    results.append("beside_long_texts", lines)
    headings = [name.replace("_", " ") for name in lines[0]]
    rendered = [
        [results.number(value, 2) if isinstance(value, float) else str(value) for value in line.values()]
        for line in lines
    ]
    results.show(f"beside {others} clients with texts of 500 kB; goal: 0.8 of the fair share", headings, rendered)


def _request(task: str, text: str, options: dict[str, str]) -> Request:
    body = json.dumps({"inputs": [text], "options": options}).encode()
    return Request.post(task, 1, f"/v1/tasks/{task}/predict", body)


if __name__ == "__main__":
    typer.run(main)
