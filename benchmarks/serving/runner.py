"""The backend alone, without HTTP or queue: cost of conditioning, many tasks, padding and lengths.

    python -m benchmarks.serving.runner [--data DATA] [--engines torch] [--size minilm] [--only conditioning,tasks]

Networks of random weights; `texts` has a version of the store and its real texts. What is compared runs in turns, round
after round, and a ratio is the median of the rounds' own ratios. The speeds of batches have beside them the share of
that of a large matrix product, measured in the same run. On CUDA the batches are larger, and `graphs` compares the network
as it comes with replays and with torch.compile (which needs a compiler and Triton, and is left out where it fails).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.serving import results
from benchmarks.serving.alone import Alone
from benchmarks.serving.synthetic import ENGINES, SIZES, Bench, conditioned, encoder_flops, lengths, synthetic_tasks
from benchmarks.serving.timing import in_turns, matmul_flops, ratio, run_all
from benchmarks.serving.workload import read_rows
from polytask.model.network import Network
from polytask.service.backends.contract import Backend
from polytask.service.backends.cuda import CudaBackend
from polytask.service.backends.device import pick_device
from polytask.service.backends.shape_buckets import Buckets
from polytask.service.config.cpu_cores import available_cores
from polytask.service.config.settings import Settings

_LENGTHS, _TASKS = (16, 32, 64, 128, 256), (1, 8, 24, 100, 1000)
_BATCH_ROWS = {"cpu": (1, 4, 8, 16, 32), "cuda": (1, 8, 32, 128, 256)}
_GRAPH_ROWS, _GRAPH_LENGTHS = (1, 8, 32, 128), (32, 128)
_USUAL_ROWS = {"cpu": 8, "cuda": 128}
_BATCHES = 8


def main(
    data: Annotated[Path | None, typer.Option(help="The data folder; only `texts` needs it.")] = None,
    only: Annotated[
        str, typer.Option(help="Of conditioning,tasks,padding,lengths,graphs,texts; default: what can be.")
    ] = "",
    engines: Annotated[
        str, typer.Option(help=f"Of {','.join(ENGINES)}, with commas; `texts` alone: auto too.")
    ] = "torch",
    size: Annotated[str, typer.Option(help=f"Of the random network: {', '.join(SIZES)}.")] = "minilm",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    rounds: Annotated[int, typer.Option(help="Of each comparison.")] = 7,
    threads: Annotated[int, typer.Option(help="Of torch; 0: the cores there are.")] = 0,
    model: Annotated[str, typer.Option(help="The version for `texts`.")] = "demo",
    tasks: Annotated[int, typer.Option(help="How many of its tasks `texts` has.")] = 8,
    seconds: Annotated[float, typer.Option(help="Of `texts`, for each size of batch.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Of `texts` only the best size, as JSON.")] = False,
) -> None:
    """Measures, prints tables and adds a line for each row of them to results/runner.jsonl."""
    # What a backend logs at its creation: which graphs it keeps, and what they take.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("service").setLevel(logging.INFO)
    sections, chosen = dict(_SECTIONS), pick_device(device)
    if chosen.type != "cuda":
        del sections["graphs"]
    wanted = only.split(",") if only else [*sections, *(["texts"] if data else [])]
    if data is not None:
        sections["texts"] = partial(_texts, data=data, model=model, num_tasks=tasks, seconds=seconds)
    if missing := set(wanted) - sections.keys():
        raise typer.BadParameter(f"no section {', '.join(missing)} (texts needs --data, graphs CUDA)")
    if unknown := set(engines.split(",")) - {*ENGINES, *(["auto"] if wanted == ["texts"] else [])}:
        raise typer.BadParameter(f"no engine {', '.join(unknown)}")
    for engine in engines.split(","):
        bench = Bench(engine, threads or available_cores(), chosen, conditioned(SIZES[size]), rounds)
        for name in wanted:
            lines = sections[name](bench)
            if as_json:
                print(json.dumps(max(lines, key=lambda line: float(line["texts_per_s"]))))
            else:
                about = {"engine": engine, "device": bench.device.type, "size": model if name == "texts" else size}
                _report(name, [{**about, **line} for line in lines])


def _conditioning(bench: Bench) -> list[dict[str, Any]]:
    """Against the plain encoder in the same backend."""
    conditioned, plain, rows = bench.backend(), bench.backend(conditional=False), _USUAL_ROWS[bench.device.type]
    lines = []
    for name, tokens in {"mixed": sorted(lengths(_BATCHES * rows)), **{str(n): [n] * rows for n in _LENGTHS}}.items():
        batches = bench.batches(tokens, rows)
        cases = {"conditioned": partial(run_all, conditioned, batches), "plain": partial(run_all, plain, batches)}
        seconds = in_turns(cases, bench.rounds)
        dearer = ratio(seconds["conditioned"], seconds["plain"]) - 1
        speeds = {f"{name}_tokens_per_s": sum(tokens) / min(own) for name, own in seconds.items()}
        lines.append({"length": name, "rows": rows, **speeds, "dearer_percent": 100 * dearer})
    return lines


def _many_tasks(bench: Bench) -> list[dict[str, Any]]:
    """Rows of all tasks alike, against one task; and what a task takes of memory."""
    rows = _USUAL_ROWS[bench.device.type]
    tokens = sorted(lengths(_BATCHES * rows))
    cases: dict[str, Callable[[], object]] = {
        str(count): partial(run_all, bench.backend(count), bench.batches(tokens, rows, count)) for count in _TASKS
    }
    seconds = in_turns(cases, bench.rounds)
    sizes = {count: _network_bytes(bench, count) for count in (_TASKS[0], _TASKS[-1])}
    per_task = (sizes[_TASKS[-1]] - sizes[_TASKS[0]]) / (_TASKS[-1] - _TASKS[0])
    return [
        {
            "tasks": int(name),
            "rows_per_s": len(tokens) / min(own),
            "percent_of_one_task": 100 * ratio(seconds[str(_TASKS[0])], own),
            "bytes_per_task": per_task,
        }
        for name, own in seconds.items()
    ]


def _network_bytes(bench: Bench, num_tasks: int) -> int:
    """Of the parameters and the task tables of a network, in float32. Four labels a task."""
    network = Network(bench.config, synthetic_tasks(num_tasks))
    size = sum(parameter.nbytes for parameter in network.parameters())
    with torch.inference_mode():
        tables: list[int] = []
        network.condition().map(partial(_noted, tables))
    return size + sum(tables)


def _noted(sizes: list[int], table: torch.Tensor) -> torch.Tensor:
    sizes.append(table.nbytes)
    return table


def _padding(bench: Bench) -> list[dict[str, Any]]:
    """The same rows as they come, and by length."""
    backend, lines = bench.backend(), []
    for rows in _BATCH_ROWS[bench.device.type][1:]:
        tokens = lengths(_BATCHES * rows)
        orders = {"as they come": bench.batches(tokens, rows), "by length": bench.batches(sorted(tokens), rows)}
        seconds = in_turns({name: partial(run_all, backend, own) for name, own in orders.items()}, bench.rounds)
        for name, batches in orders.items():
            padded = sum(batch.input_ids.numel() for batch in batches)
            best = min(seconds[name])
            real = {"rows": rows, "order": name, "padding_percent": 100 * (1 - sum(tokens) / padded)}
            lines.append({**real, "real_tokens_per_s": sum(tokens) / best, "padded_tokens_per_s": padded / best})
    return lines


def _lengths(bench: Bench) -> list[dict[str, Any]]:
    """Batches of one length each: time, speed, and share of the speed of a large matrix product."""
    backend, lines, ceiling = bench.backend(), [], matmul_flops(bench.device)
    for length in _LENGTHS:
        shapes = {rows: bench.batches([length] * rows, rows) for rows in _BATCH_ROWS[bench.device.type]}
        seconds = in_turns({str(rows): partial(run_all, backend, own) for rows, own in shapes.items()}, bench.rounds)
        for rows in shapes:
            best = min(seconds[str(rows)])
            share = encoder_flops(bench.config, rows, length) / best / ceiling
            line = {"length": length, "rows": rows, "ms": 1000 * best, "tokens_per_s": rows * length / best}
            lines.append({**line, "percent_of_matmul": 100 * share, "matmul_gflops": ceiling / 1e9})
    return lines


def _graphs(bench: Bench) -> list[dict[str, Any]]:
    """Milliseconds of a batch by each way of running it, from the smallest batches to large ones; shares by the fastest."""
    buckets = Buckets(_GRAPH_ROWS, _GRAPH_LENGTHS, max(_GRAPH_ROWS) * max(_GRAPH_LENGTHS))
    # A shape of the grid each, and the smallest batches that they are compared with.
    torch._dynamo.config.recompile_limit = 4 * len(buckets.all)  # noqa: SLF001, its documented place
    backends: dict[str, Backend] = {}
    for name, compiled, own in (
        ("eager", False, None),
        ("graphs", False, buckets),
        ("compiled", True, None),
        ("compiled_graphs", True, buckets),
    ):
        network = Network(bench.config, synthetic_tasks(8)).eval()
        if compiled:
            network.encoder.compile(dynamic=False)
        try:
            backends[name] = CudaBackend(network, bench.device, own)
            backends[name].run(bench.batches([8], 1)[0])
        except Exception as error:  # noqa: BLE001, of the compiler, Triton or the driver
            backends.pop(name, None)
            print(f"{name}: left out, {error}")
    lines, ceiling = [], matmul_flops(bench.device)
    for num_rows, length in sorted(buckets.all):
        batches = bench.batches([length] * num_rows * _BATCHES, num_rows)
        seconds = in_turns(
            {name: partial(run_all, backend, batches) for name, backend in backends.items()}, bench.rounds
        )
        took = {name: min(own) / _BATCHES for name, own in seconds.items()}
        share = encoder_flops(bench.config, num_rows, length) / min(took.values()) / ceiling
        by_name = {f"{name}_ms": 1000 * own for name, own in took.items()}
        lines.append({"rows": num_rows, "length": length, **by_name, "percent_of_matmul": 100 * share})
    return lines


def _texts(bench: Bench, data: Path, model: str, num_tasks: int, seconds: float) -> list[dict[str, Any]]:
    """Real texts of a version's tasks, tokenised before the clock starts, sorted by length."""
    backend = bench.engine.partition("-")[0]
    flags = {"model": model, "runner": backend, "device": bench.device.type, "threads": str(bench.threads)}
    settings = Settings.from_environment({}, flags)
    alone = Alone(settings, read_rows(model, data, num_tasks))
    return [
        {
            "engine": alone.engine,
            "load": f"{size} rows by length",
            "texts_per_s": alone.texts_per_s(size, seconds),
        }
        for size in _BATCH_ROWS[bench.device.type]
    ]


_SECTIONS: dict[str, Callable[[Bench], list[dict[str, Any]]]] = {
    "conditioning": _conditioning,
    "tasks": _many_tasks,
    "padding": _padding,
    "lengths": _lengths,
    "graphs": _graphs,
}


def _report(name: str, lines: list[dict[str, Any]]) -> None:
    def cell(value: object) -> str:
        return results.number(value, 1) if isinstance(value, float) else str(value)

    results.append("runner", [{"section": name, **line} for line in lines])
    results.show(name, [key.replace("_", " ") for key in lines[0]], [list(map(cell, line.values())) for line in lines])


if __name__ == "__main__":
    typer.run(main)
