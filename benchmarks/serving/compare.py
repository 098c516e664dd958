"""Polytask compared with other servers: in turn, on the same cores, with the same texts under the same load.

    python -m benchmarks.serving.compare DATA [--systems polytask,litserve,infinity:torch] [--clients 1,16,64]

Each system is started, asked a few things whose answers are known, warmed up and measured with every number of clients
(a closed loop), and then in an open loop at a share of the best rate found. It has a model for each task, as its users
would have; Polytask has its embedded checkpoint, whatever the number of tasks. The clients share the cores. A system that
does not install, start or answer rightly is in the table with the reason.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.serving import results
from benchmarks.serving.environments import DEFAULT_FOLDER, Environments, Unavailable, last_lines
from benchmarks.serving.load import Outcome, Request, ask, closed_loop, open_loop
from benchmarks.serving.servers import Server, batches, free_port, means, running
from benchmarks.serving.systems import ALL, System, find
from benchmarks.serving.workload import Row, groups, read_rows, tasks_of
from polytask.model.encoding import Input
from polytask.model.tasks import Task
from polytask.service.config.cpu_cores import available_cores

_ROOT = Path(__file__).parents[2]
_EVERY = ",".join(system.name for system in ALL)
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "BENTOML_DO_NOT_TRACK": "True",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One measurement. `load`: clients, or the rate of an open loop. `details`: what the service itself counted."""

    system: str
    engine: str
    tasks: int
    load: str
    texts_per_request: int
    texts_per_s: float = math.nan
    p50_ms: float = math.nan
    p90_ms: float = math.nan
    p99_ms: float = math.nan
    statuses: dict[int, int] = field(default_factory=dict)
    memory_mb: float = math.nan
    client_ms: float = math.nan
    seconds: float = 0.0
    details: dict[str, float] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The measurements of every system. `share`: of the best rate of one-text requests, for the open loop; 0 for none."""

    clients: Sequence[int]
    texts: Sequence[int]
    seconds: float
    warm_up_s: float
    share: float


def main(
    data: Annotated[Path, typer.Argument(help="The data folder that the checkpoint was trained from.")],
    systems: Annotated[str, typer.Option(help="NAME or NAME:ENGINE, with commas.")] = _EVERY,
    tasks: Annotated[str, typer.Option(help="How many tasks are served, with commas.")] = "8,1",
    clients: Annotated[str, typer.Option(help="Of closed loops, with commas.")] = "1,16,64",
    texts: Annotated[str, typer.Option(help="In a request, with commas.")] = "1",
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 20,
    warm_up: Annotated[float, typer.Option(help="Seconds before each that do not count.")] = 5,
    share: Annotated[float, typer.Option(help="Of the best rate, for the open loop; 0: none.")] = 0.8,
    raw: Annotated[bool, typer.Option(help="Also the model alone, without a server.")] = True,
    cores: Annotated[str, typer.Option(help="Those to use, with commas; default: all.")] = "",
    model: Annotated[str, typer.Option(help="The version that Polytask serves.")] = "demo",
    environments: Annotated[Path, typer.Option(help="Where the rivals live.")] = DEFAULT_FOLDER,
) -> None:
    """Measures and prints a table for each number of tasks; adds a line for each measurement to results/compare.jsonl."""
    if cores:
        os.sched_setaffinity(0, _numbers(cores))
    chosen = [find(name) for name in systems.split(",")]
    plan = Plan(_numbers(clients), _numbers(texts), seconds, warm_up, share)
    for num_tasks in _numbers(tasks):
        rows = read_rows(model, data, num_tasks)
        lines = [_without_server(model, data, num_tasks, seconds)] if raw else []
        for system in chosen:
            lines += _measure(system, rows, plan, model, Environments(environments.resolve()))
            print(f"{system.title}: {lines[-1].failure or 'measured'}", file=sys.stderr)
        results.append("compare", map(asdict, lines))
        _show(lines, num_tasks)


def _measure(system: System, rows: list[Row], plan: Plan, model: str, environments: Environments) -> list[Line]:
    lines: list[Line] = []
    num_tasks = len(tasks_of(rows))
    try:
        with _started(system, rows, model, environments) as server:
            for size, clients in product(plan.texts, plan.clients):
                requests = [system.request(group) for group in groups(rows, size)]
                before = _scrape(system, server)
                outcome = asyncio.run(closed_loop(server.port, requests, clients, plan.seconds, plan.warm_up_s))
                lines.append(_line(system, num_tasks, f"{clients} clients", size, outcome, server, before))
            rate = plan.share * max((line.texts_per_s for line in lines if line.texts_per_request == 1), default=0.0)
            if rate > 0:
                requests = [system.request([row]) for row in rows]
                before = _scrape(system, server)
                outcome = asyncio.run(open_loop(server.port, requests, rate, plan.seconds, plan.warm_up_s))
                lines.append(_line(system, num_tasks, f"{plan.share:.0%} of peak", 1, outcome, server, before))
    except (Unavailable, OSError) as error:
        lines.append(Line(system.name, system.engine, num_tasks, "-", 1, failure=f"{error}"))
    return lines


@contextmanager
def _started(system: System, rows: list[Row], model: str, environments: Environments) -> Iterator[Server]:
    """The running system, once its answers are right. Raises Unavailable."""
    port, tasks = free_port(), tasks_of(rows)
    models, python = None, Path(sys.executable)
    environment = {"POLYTASK_MODEL": model}
    if system.environment is not None:
        models, python = environments.models(tasks), environments.python(system.environment)
        environment = _variables(system, port, models, tasks)
    requests = [system.request([next(row for row in rows if row.task == task)]) for task in tasks]
    with tempfile.TemporaryDirectory() as folder:
        environment |= {"PYTHONPATH": str(_ROOT), "TMPDIR": folder}
        command = [str(python), *system.command(port)]
        with running(command, environment, port, lambda port: _answers(port, requests)) as server:
            if models is not None:
                _check(system, port, models, tasks)
            yield server


def _variables(system: System, port: int, models: Path, tasks: Sequence[Task]) -> dict[str, str]:
    """The environment variables of a rival."""
    threads = str(available_cores())
    return _QUIET | {
        "RIVAL_PORT": str(port),
        "RIVAL_MODELS": str(models),
        "RIVAL_TASKS": ",".join(task.name for task in tasks),
        "RIVAL_ENGINE": system.engine,
        "RIVAL_THREADS": threads,
        "OMP_NUM_THREADS": threads,
    }


def _answers(port: int, requests: Sequence[Request]) -> bool:
    return all(ask(port, request).status == 200 for request in requests)


def _check(system: System, port: int, models: Path, tasks: Sequence[Task]) -> None:
    """Raises Unavailable where labels of known texts differ from those that the model gave when it was made."""
    for task in tasks:
        known = json.loads((models / task.name / "expected.json").read_text(encoding="utf-8"))
        response = ask(port, system.request([Row(task, Input(text)) for text, _ in known]))
        found = system.labels(json.loads(response.body)) if response.status == 200 else []
        right = sum(label == expected for label, (_, expected) in zip(found, known, strict=False))
        if right < len(known) - 1:  # int8 may tip one
            raise Unavailable(f"answers wrongly: {right} of {len(known)} known texts of {task.name} are right")


def _scrape(system: System, server: Server) -> dict[str, float]:
    """Batch metrics of the service; empty for a rival."""
    return batches(server.scrape()) if system.environment is None else {}


def _line(
    system: System, num_tasks: int, load: str, size: int, outcome: Outcome, server: Server, before: dict[str, float]
) -> Line:
    after = _scrape(system, server)
    return Line(
        system.name,
        system.engine,
        num_tasks,
        load,
        size,
        outcome.texts_per_s,
        outcome.latency_ms(0.5),
        outcome.latency_ms(0.9),
        outcome.latency_ms(0.99),
        statuses=outcome.statuses,
        memory_mb=server.peak_memory_mb(),
        client_ms=outcome.client_ms,
        seconds=outcome.end - outcome.begin,
        details=means({name: value - before[name] for name, value in after.items()}),
    )


def _without_server(model: str, data: Path, num_tasks: int, seconds: float) -> Line:
    """The model alone on tokenised rows, sorted by length: an upper bound for any server."""
    command = [sys.executable, "-m", "benchmarks.serving.runner", "--only", "texts", "--data", str(data)]
    options = ["--model", model, "--tasks", str(num_tasks), "--seconds", str(seconds), "--engines", "auto", "--json"]
    result = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if result.returncode:
        return Line("no server", "", num_tasks, "-", 1, failure=last_lines(result.stderr))
    best = json.loads(result.stdout)
    return Line(
        "no server", best["engine"], num_tasks, best["load"], 1, texts_per_s=best["texts_per_s"], seconds=seconds
    )


def _show(lines: list[Line], num_tasks: int) -> None:
    base = {(line.load, line.texts_per_request): line.texts_per_s for line in lines if line.system == "polytask"}
    fastest = max((line.texts_per_s for line in lines if line.system == "polytask"), default=math.nan)
    base |= {(line.load, 1): fastest for line in lines if line.system == "no server"}
    headings = ["system", "engine", "load", "texts a request", "texts/s", "Polytask is", "p50 ms", "p90 ms", "p99 ms"]
    headings += ["peak memory MB", "statuses", "client ms a request"]
    results.show(f"{num_tasks} tasks", headings, [_cells(line, base) for line in lines])
    for line in lines:
        if line.failure:
            print(f"{line.system} {line.engine}: {line.failure}")
        if line.details:
            counted = ", ".join(f"{name} {value:.3g}" for name, value in line.details.items())
            print(f"{line.system}, {line.load}, {line.texts_per_request} texts a request: {counted}")


def _cells(line: Line, base: dict[tuple[str, int], float]) -> list[str]:
    """A row of the table. `base`: texts a second of Polytask under each load; an open loop's are the same by design."""
    own = base.get((line.load, line.texts_per_request), math.nan) if "of peak" not in line.load else math.nan
    times = own / line.texts_per_s if line.texts_per_s else math.nan
    return [
        line.system,
        line.engine,
        line.load,
        str(line.texts_per_request),
        results.number(line.texts_per_s),
        results.number(times, 2),
        *(results.number(value) for value in (line.p50_ms, line.p90_ms, line.p99_ms, line.memory_mb)),
        "failed, see below"
        if line.failure
        else " ".join(f"{status}: {count}" for status, count in line.statuses.items()),
        results.number(line.client_ms, 2),
    ]


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    typer.run(main)
