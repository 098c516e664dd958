"""Texts a second over HTTP with 64 clients on all tasks, beside the same model called directly in a loop.

    python -m benchmarks.serving.throughput DATA [--clients 64] [--seconds 30]

Starts the service, loads it with validation texts of every task (each request one input, tasks in turn), stops it,
and then runs the same inputs in this process: one by one, and in sorted batches of 32, which no server can know.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.serving.load import Outcome, Request, closed_loop
from model.encoding import Input, InputEncoder
from model_store import DEFAULT_STORE
from model_store.load import load
from model_store.versions import resolve
from service.cores import available_cores
from service.runners import Forward, TorchRunner, pick_device
from service.schemas import from_input
from training.examples import TaskData
from training.published import validation_data

_PER_TASK = 200


def main() -> None:
    """Runs the comparison and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the data folder that the checkpoint was trained from")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    console = Console()
    data = validation_data(resolve(DEFAULT_STORE, "demo"), options.data)
    inputs = mixed_inputs(data)
    requests = [Request.of(own.task.name, from_input(own.task, item)) for own, item in inputs]
    with running_service() as (port, process):
        asyncio.run(closed_loop("127.0.0.1", port, requests, options.clients, 5))  # warm
        before = scrape(port)
        outcome = asyncio.run(closed_loop("127.0.0.1", port, requests, options.clients, options.seconds))
        batches = {name: value - before.get(name, 0.0) for name, value in scrape(port).items()}
        peak_mb = peak_memory_mb(process)
    table = Table("", "texts/s", "p50 ms", "p99 ms", title=f"{len(data)} tasks mixed, {options.seconds:.0f} s")
    table.add_row(f"HTTP, {options.clients} clients", *http_cells(outcome))
    table.add_row("direct, one by one", f"{direct(inputs, 1, options.seconds):.0f}", "", "")
    table.add_row("direct, sorted batches of 32", f"{direct(inputs, 32, options.seconds):.0f}", "", "")
    console.print(table)
    console.print(f"errors: {len(outcome.errors)} {sorted(set(outcome.errors))}; service peak memory {peak_mb:.0f} MB")
    console.print(tasks_per_batch(batches))


def mixed_inputs(data: list[TaskData]) -> list[tuple[TaskData, Input]]:
    """Some validation inputs of every task, the tasks shuffled together; the same ones every time."""
    generator = random.Random(0)
    inputs = [
        (own, example.input)
        for own in data
        for example in generator.sample(own.validation, min(_PER_TASK, len(own.validation)))
    ]
    return generator.sample(inputs, len(inputs))


@contextlib.contextmanager
def running_service() -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The service with its defaults in a process of its own, on a free port, once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "polytask", "serve", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            while True:
                try:
                    with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                        break
                except (URLError, ConnectionError):
                    if process.poll() is not None:
                        raise SystemExit("the service ended before it was ready; run `polytask serve`") from None
                    time.sleep(0.2)
            yield port, process
        finally:
            process.send_signal(signal.SIGTERM)


def scrape(port: int) -> dict[str, float]:
    """All samples of the service's metrics, by name with labels."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def peak_memory_mb(process: subprocess.Popen[bytes]) -> float:
    """The largest resident size that the process ever had, in megabytes."""
    status = Path(f"/proc/{process.pid}/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 1000
    return psutil.Process(process.pid).memory_info().rss / 1e6


def http_cells(outcome: Outcome) -> tuple[str, str, str]:
    """Throughput, median and 99th percentile as the table shows them."""
    latencies = sorted(latency for own in outcome.latencies.values() for latency in own)
    p99 = latencies[int(0.99 * len(latencies))]
    rate = outcome.answered / outcome.elapsed_s
    return f"{rate:.0f}", f"{1000 * statistics.median(latencies):.0f}", f"{1000 * p99:.0f}"


def direct(inputs: list[tuple[TaskData, Input]], batch_rows: int, seconds: float) -> float:
    """Inputs a second of the model alone, tokenisation included; batches of more than one input are sorted by length."""
    checkpoint = load(resolve(DEFAULT_STORE, "demo"))
    torch.set_num_threads(available_cores())
    tasks, encoder = checkpoint.network.tasks, InputEncoder(checkpoint.tokenizer)
    forward = Forward(TorchRunner(checkpoint.network, pick_device("auto")), tasks, encoder.pad_id)
    ids = {task.name: task_id for task_id, task in enumerate(tasks)}
    done, started = 0, time.perf_counter()
    while True:
        encoded = [(ids[own.task.name], rows) for own, item in inputs for rows in encoder.encode(own.task, [item])]
        if batch_rows > 1:
            encoded.sort(key=lambda pair: len(pair[1][0]))
        for start in range(0, len(encoded), batch_rows):
            part = encoded[start : start + batch_rows]
            forward([task_id for task_id, rows in part for _ in rows], [row for _, rows in part for row in rows])
            done += len(part)
            if time.perf_counter() - started >= seconds:
                return done / (time.perf_counter() - started)


def tasks_per_batch(samples: dict[str, float]) -> str:
    """How many tasks the batches mixed, and how full they were."""
    batches = samples["polytask_batch_tasks_count"]
    mixed = batches - samples['polytask_batch_tasks_bucket{le="1.0"}']
    padding, real = (samples[f'polytask_batch_tokens_total{{kind="{kind}"}}'] for kind in ("padding", "real"))
    return (
        f"{batches:.0f} batches, {samples['polytask_batch_inputs_sum'] / batches:.1f} rows and "
        f"{samples['polytask_batch_tasks_sum'] / batches:.1f} tasks each on average, {mixed / batches:.0%} of them "
        f"of several tasks, {padding / (padding + real):.0%} padding"
    )


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
