"""Throughput of a device over HTTP compared with the device alone, on random weights: the benchmark for a GPU.

    python -m benchmarks.serving.device [--device cuda] [--size bert-base] [--frontends 12]

Texts are random words, as many as real ones have. `benchmarks.serving.runner --device cuda` measures the forward itself.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.serving import results
from benchmarks.serving.load import Outcome, Request, closed_loop
from benchmarks.serving.servers import batches, means, polytask
from benchmarks.serving.synthetic import SIZES, Bench, conditioned, lengths, synthetic_tasks
from benchmarks.serving.systems import find
from benchmarks.serving.timing import in_turns, run_all
from benchmarks.serving.workload import Row, groups
from polytask.model.encoding import Input
from polytask.model.network import Network
from polytask.model.tasks import Task
from polytask.model_store import DEFAULT_STORE
from polytask.model_store.manifest import read_manifest
from polytask.model_store.save import NewVersion, save
from polytask.model_store.tokenizer import load_tokenizer
from polytask.model_store.versions import promote, resolve
from polytask.service.backends.device import pick_device
from polytask.service.config.cpu_cores import available_cores

_NAME = "random"
_TEXTS = 4096
_WORDS = ("the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on")
_WARM_UP_S = 3.0
_BATCHES = 12
_BATCH_ROWS = {"cpu": (4, 8, 16), "cuda": (64, 128, 256)}


def main(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    size: Annotated[str, typer.Option(help=f"Of the network: {', '.join(SIZES)}.")] = "bert-base",
    tasks: Annotated[int, typer.Option(help="Classifications with four labels.")] = 8,
    frontends: Annotated[int, typer.Option(help="HTTP processes; 0: one process does everything.")] = 0,
    clients: Annotated[int, typer.Option(help="Of the closed loop of single texts.")] = 256,
    generators: Annotated[int, typer.Option(help="Processes that the clients are divided among.")] = 4,
    seconds: Annotated[float, typer.Option(help="Of each load.")] = 10,
) -> None:
    """Measures, prints a table and adds a line for each row of it to results/device.jsonl."""
    chosen = pick_device(device)
    alone = _alone(Bench("torch", available_cores(), chosen, conditioned(SIZES[size]), 5), tasks)
    rows = _rows(synthetic_tasks(tasks))
    one = [row for row in rows if row.task == rows[0].task]
    loads = [
        ("single texts, tasks mixed", rows, 1, clients),
        ("single texts, one task", one, 1, clients),
        ("32 texts, tasks mixed", rows, 32, max(generators, clients // 8)),
    ]
    about = {"device": chosen.type, "size": size, "tasks": tasks, "frontends": frontends}
    lines = [{**about, "load": "the model alone", "texts_per_s": alone}]
    with tempfile.TemporaryDirectory() as store:
        _save(Path(store), size, tasks)
        flags = ["--store", store, "--device", chosen.type, "--frontends", str(frontends)]
        with polytask(_NAME, *flags) as server, ProcessPoolExecutor(generators, get_context("spawn")) as pool:
            for name, asked, texts, number in loads:
                before = batches(server.scrape())
                parts = _parts(asked, texts, generators)
                loading = [pool.submit(_load, server.port, part, number // generators, seconds) for part in parts]
                outcomes = [each.result() for each in loading]
                ran = means({key: value - before[key] for key, value in batches(server.scrape()).items()})
                lines.append({**about, "load": name, "clients": number, **_summary(outcomes), **ran})
    results.append("device", lines)
    headings = ["", "texts/s", "of the model alone", "p50 ms", "p99 ms", "rows a batch"]
    results.show(f"{size} on {chosen.type}, {tasks} tasks", headings, [_cells(line, alone) for line in lines])


def _alone(bench: Bench, num_tasks: int) -> float:
    """Texts a second of the backend, rows sorted by length, with the best number of rows."""
    backend, best = bench.backend(num_tasks), 0.0
    for rows in _BATCH_ROWS[bench.device.type]:
        own = bench.batches(sorted(lengths(_BATCHES * rows)), rows, num_tasks)
        seconds = in_turns({"alone": partial(run_all, backend, own)}, bench.rounds)["alone"]
        best = max(best, _BATCHES * rows / min(seconds))
    return best


def _save(store: Path, size: str, num_tasks: int) -> None:
    """A version of random weights with the tokenizer of the embedded one. It has no golden answers."""
    embedded = resolve(DEFAULT_STORE, "demo")
    contents = NewVersion(
        network=Network(conditioned(SIZES[size]), synthetic_tasks(num_tasks)),
        tokenizer_json=load_tokenizer(embedded, read_manifest(embedded)).to_str(),
        base=None,
        precision=torch.float32,
        metrics={},
        baselines={},
        goldens=(),
        provenance={},
        card="# Random weights, for benchmarks\n",
    )
    save(store, _NAME, contents)
    promote(store, _NAME, 1)


def _rows(tasks: Sequence[Task]) -> list[Row]:
    """Random words that are a token each, as many as `lengths` says, for the tasks in turn."""
    drawn = random.Random(0)
    texts = (" ".join(drawn.choices(_WORDS, k=length)) for length in lengths(_TEXTS))
    return [Row(tasks[place % len(tasks)], Input(text)) for place, text in enumerate(texts)]


def _parts(rows: Sequence[Row], texts: int, number: int) -> list[list[Request]]:
    requests = [find("polytask").request(own) for own in groups(rows, texts)]
    return [requests[start::number] for start in range(number)]


def _load(port: int, requests: Sequence[Request], clients: int, seconds: float) -> Outcome:
    return asyncio.run(closed_loop(port, requests, max(1, clients), seconds, _WARM_UP_S))


def _summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All generators as one: they begin within moments of each other."""
    whole = Outcome(0.0, float("inf"), [sample for outcome in outcomes for sample in outcome.counted])
    return {
        "texts_per_s": sum(outcome.texts_per_s for outcome in outcomes),
        "p50_ms": whole.latency_ms(0.5),
        "p99_ms": whole.latency_ms(0.99),
        "statuses": whole.statuses,
        "client_cores": sum(outcome.cpu_s / (outcome.end - outcome.begin) for outcome in outcomes),
    }


def _cells(line: dict[str, Any], alone: float) -> list[str]:
    share = results.number(100 * line["texts_per_s"] / alone) + "%"
    times = [results.number(line.get(key), 1) for key in ("p50_ms", "p99_ms", "rows")]
    return [line["load"], results.number(line["texts_per_s"]), share, *times]


if __name__ == "__main__":
    typer.run(main)
