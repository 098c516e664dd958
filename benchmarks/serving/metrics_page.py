"""Cost of the metrics page by number of tasks and processes, compared with the library's rendering of the same samples.

python -m benchmarks.serving.metrics_page [--tasks 10,100,1000] [--processes 1,5]
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.serving import results
from polytask.model.tasks import Kind, Task
from polytask.service.observability.metric_storage import ProcessStorage, SharedStorage
from polytask.service.observability.metrics import Metrics

_PAGES = 9


def main(
    tasks: Annotated[str, typer.Option(help="Numbers of tasks, with commas.")] = "10,100,1000",
    processes: Annotated[str, typer.Option(help="Numbers of processes, with commas.")] = "1,5",
) -> None:
    """Measures, prints a table and adds a line for each row of it to results/metrics_page.jsonl."""
    spawn, lines = multiprocessing.get_context("spawn"), []
    for num_tasks in map(int, tasks.split(",")):
        for num_processes in map(int, processes.split(",")):
            # Each has a process of its own, one after the other. Their files stay, and the last page is of all of them.
            with tempfile.TemporaryDirectory() as folder, spawn.Pool(1, maxtasksperchild=1) as pool:
                names = [f"process-{number}" for number in range(num_processes)] if num_processes > 1 else [""]
                measured = [pool.apply(_measure, (folder, name, num_tasks)) for name in names]
            lines.append({"tasks": num_tasks, "processes": num_processes, **measured[-1]})
    results.append("metrics_page", lines)
    headings = ["tasks", "processes", "samples", "KB", "first page, ms", "page, ms", "library's writing alone, ms"]
    results.show("the page", headings, [[f"{value:.4g}" for value in line.values()] for line in lines])


def _measure(folder: str, name: str, num_tasks: int) -> dict[str, float]:
    tasks = [Task(f"task-{number}", Kind.CLASSIFICATION, 128, ("no", "yes")) for number in range(num_tasks)]
    metrics = Metrics(tasks, SharedStorage(Path(folder), name) if name else ProcessStorage())
    for number in range(num_tasks):
        metrics.requests.answered(f"task-{number}", {"forward": 0.01, "queue": 0.005}, 0.02)
    first_s = _seconds(metrics.page)
    page = metrics.page()
    registry = CollectorRegistry()
    registry.register(_Read(list(text_string_to_metric_families(page.decode()))))
    return {
        "samples": sum(not line.startswith(b"#") for line in page.splitlines()),
        "kilobytes": len(page) / 1000,
        "first_ms": 1000 * first_s,
        "page_ms": 1000 * median(_seconds(metrics.page) for _ in range(_PAGES)),
        "library_ms": 1000 * median(_seconds(lambda: generate_latest(registry)) for _ in range(_PAGES)),
    }


class _Read:
    """A collector of the families of a page."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """The families."""
        return self._families


def _seconds(make: Callable[[], object]) -> float:
    begun = time.perf_counter()
    make()
    return time.perf_counter() - begun


if __name__ == "__main__":
    typer.run(main)
