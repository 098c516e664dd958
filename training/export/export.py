"""Export: a version's network as files for other backends; every way of running it is measured, the fastest first."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from rich import box
from rich.console import Console
from rich.progress import Progress, TextColumn
from rich.table import Table

from polytask.model.batch import Batch
from polytask.model.encoding import Encoding, Input, InputEncoder
from polytask.model.heads import Outputs
from polytask.model.network import Network
from polytask.model.tasks import Task
from polytask.model_store.durable_files import sha256_of
from polytask.model_store.errors import StoreError
from polytask.model_store.exports import Candidate, Exports, exported_file, read_exports, save_exports
from polytask.model_store.load import load
from polytask.model_store.manifest import MANIFEST, Golden, Manifest, read_manifest
from polytask.model_store.versions import resolve
from polytask.training.data.examples import TaskData
from polytask.training.data.issues import DataError
from polytask.training.data.splits import subsample
from polytask.training.data.version_data import training_inputs, validation_data
from polytask.training.evaluation.evaluate import RunBatch
from polytask.training.evaluation.metrics import Scores
from polytask.training.export.activation_scales import GraphScales, read_scales, write_scales
from polytask.training.export.backend_trials import (
    BATCH_SIZES,
    EncodedTask,
    answer_task,
    differences,
    rows_per_second,
    score_backend,
)
from polytask.training.export.onnx_graph import onnx_graph
from polytask.training.export.quantisation import Feed, choose_scales, quantise

MAX_LOSS = 0.5
"""Hundredths of its main metric that a task may lose."""

_FLOAT32, _INT8_ONNX_RUNTIME, _INT8_PLAIN = "float32.onnx", "int8.onnx", "int8-plain.onnx"
_SCALES = "int8-scales.safetensors"
_NUM_FLOAT_PRODUCTS = (0, 1, 2, 4, 8)
"""How many activations' products may stay in float32 beside 8 bits: as few as make every task pass."""

_CALIBRATION_ROWS = 320
_TIMED_ROWS = 128


class OpenBackend(Protocol):
    """Opens a backend with that many threads and returns a function that runs batches on it."""

    def __call__(self, backend: str, precision: str, file: Path | None, network: Network, threads: int) -> RunBatch: ...


@dataclass(frozen=True, slots=True)
class Backends:
    """The backends of the service.

    `is_installed`: whether a backend can be used here. `open`: opens one by name, precision and file (None: the network).
    """

    is_installed: Callable[[str], bool]
    open: OpenBackend
    threads: int


def export_version(folder: Path, data: Path | None, backends: Backends, console: Console) -> Path:
    """Exports the version in `folder`. Returns the folder of its exports.

    `data`: the data folder of its recipe; without it no losses can be measured, so there are candidates in float32 only.
    Raises StoreError or DataError.
    """
    checkpoint = load(folder)
    manifest, encoder = checkpoint.manifest, InputEncoder(checkpoint.tokenizer)
    if data is None and not manifest.goldens:
        raise DataError(
            f"{manifest.name}/{manifest.version} has no golden examples to time engines on; give its data folder"
        )
    calibration = [] if data is None else _rows(encoder, manifest.tasks, training_inputs(folder, data))
    evaluation = _BackendEvaluation(
        manifest.tasks,
        encoder,
        [] if data is None else validation_data(folder, data),
        manifest.goldens,
        partial(backends.open, network=checkpoint.network, threads=backends.threads),
        console,
    )
    with tempfile.TemporaryDirectory() as work:
        origin = _origin_scales(folder, manifest, console) if calibration else None
        candidates = _candidates(evaluation, checkpoint.network, calibration, origin, backends.is_installed, Path(work))
        candidates = evaluation.with_speeds(candidates, backends.threads)
        files = {path.name: path for path in Path(work).iterdir()}
        kept = {
            candidate.file: files[candidate.file]
            for candidate in candidates
            if candidate.file is not None and candidate.refused is None
        } | {name: path for name, path in files.items() if name == _SCALES}
        exports = Exports(
            version=f"{manifest.name}/{manifest.version}",
            version_sha256=sha256_of(folder / MANIFEST),
            files={name: sha256_of(path) for name, path in kept.items()},
            candidates=tuple(candidates),
            cpu=_cpu(),
            threads=backends.threads,
            calibration=len(calibration),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        exports_folder = save_exports(folder, exports, kept)
    console.print(exports_table(exports))
    return exports_folder


def exports_table(exports: Exports) -> Table:
    """Every candidate with its speeds and the task that loses most."""
    title = f"{exports.version}, texts a second on {exports.threads} threads of {exports.cpu}"
    sizes = (f"batches of {size}" for size in BATCH_SIZES)
    table = Table("engine", *sizes, "largest loss", "", title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for index, candidate in enumerate(exports.candidates):
        speeds = (f"{candidate.texts_per_s[str(size)]:.0f}" for size in BATCH_SIZES)
        worst = min(candidate.differences.items(), key=lambda item: item[1], default=None)
        loss = "" if worst is None else f"{worst[0]} {worst[1]:+.2f}"
        table.add_row(candidate.name, *speeds, loss, candidate.refused or ("" if index else "default"))
    return table


def _candidates(
    evaluation: _BackendEvaluation,
    network: Network,
    calibration: Sequence[tuple[int, Encoding]],
    origin: GraphScales | None,
    is_installed: Callable[[str], bool],
    work: Path,
) -> list[Candidate]:
    """Every candidate whose backend is installed, with its losses. The files are written into the folder `work`.

    `origin`: the 8-bit scales of the version that this one was tuned from. Without `calibration` there are no validation data either: what rounds could not be measured, and is left out.
    """
    candidates = [evaluation.evaluate("torch", "float32", None)]
    graph = onnx_graph(network)
    onnx.save(graph, work / _FLOAT32)
    candidates.append(evaluation.evaluate("onnxruntime", "float32", work / _FLOAT32))
    scales = None
    if calibration:
        scales = origin or choose_scales(graph, [_feed(*row) for row in calibration])
        candidate, scales = _fewest_float_products(evaluation, graph, scales, work / _INT8_ONNX_RUNTIME)
        candidates.append(candidate)
        write_scales(work / _SCALES, scales)
    if is_installed("openvino"):
        candidates.append(evaluation.evaluate("openvino", "float32", work / _FLOAT32))
        if scales is not None:
            candidates.append(evaluation.evaluate("openvino", "bfloat16", work / _FLOAT32))
            plain = quantise(graph, scales, target="openvino")
            onnx.save(plain, work / _INT8_PLAIN)
            candidates.append(evaluation.evaluate("openvino", "int8", work / _INT8_PLAIN))
    return candidates


def _fewest_float_products(
    evaluation: _BackendEvaluation, graph: onnx.ModelProto, scales: GraphScales, file: Path
) -> tuple[Candidate, GraphScales]:
    """ONNX Runtime's 8-bit candidate with the fewest float32 products with which all tasks pass, and the scales with their
    number.

    If none passes, the candidate with the most float32 products. Scales that have a number keep it. `file` holds the graph
    that is returned.
    """
    numbers = _NUM_FLOAT_PRODUCTS if scales.num_float_products is None else (scales.num_float_products,)
    for number in numbers:
        chosen = replace(scales, num_float_products=number)
        onnx.save(quantise(graph, chosen, target="onnxruntime"), file)
        candidate = evaluation.evaluate("onnxruntime", "int8", file)
        if candidate.refused is None:
            break
    return candidate, chosen


def _origin_scales(folder: Path, manifest: Manifest, console: Console) -> GraphScales | None:
    """The 8-bit scales of the newest version that this one was tuned from and that has some; None without one.

    With the same scales all tasks that were not tuned have the same 8-bit answers to the bit.
    """
    origins = [str(tuning["from"]) for tuning in manifest.provenance.get("tuned", [])]
    for origin in reversed(origins):
        with suppress(StoreError):
            version = resolve(folder.absolute().parent.parent, origin)
            found = read_exports(version, read_manifest(version).tasks)
            if found is not None and _SCALES in found[1].files:
                console.print(f"8 bits by the scales of {origin}, as other tasks keep its answers", highlight=False)
                return read_scales(exported_file(*found, _SCALES))
    if origins:
        text = f"8-bit scales are chosen anew, as {origins[-1]} has no exports with some: all 8-bit answers may move a little"
        console.print(f"warning: {text}; export it first to keep them", soft_wrap=True, highlight=False)
    return None


class _BackendEvaluation:
    """Measures all candidates of a version on the same data. The first one is the reference for the others."""

    def __init__(
        self,
        tasks: Sequence[Task],
        encoder: InputEncoder,
        validation: Sequence[TaskData],
        goldens: Sequence[Golden],
        open_backend: Callable[[str, str, Path | None], RunBatch],
        console: Console,
    ) -> None:
        self._tasks = tasks
        self._encoder = encoder
        self._validation = validation
        self._goldens = goldens
        self._open = open_backend
        self._console = console
        self._encoded_tasks = [
            EncodedTask(encoder, task_data.task, task_id, tuple(example.input for example in task_data.validation))
            for task_id, task_data in enumerate(validation)
        ]
        self._runs: dict[str, RunBatch] = {}
        self._reference: dict[str, Scores] | None = None

    def evaluate(self, backend: str, precision: str, file: Path | None) -> Candidate:
        """The candidate with its tasks' losses, refused if a loss is too large."""
        name = f"{backend}-{precision}"
        run = self._runs[name] = self._open(backend, precision, file)
        scores = self._score(name, run)
        if self._reference is None:
            self._reference = scores
        candidate = Candidate(
            backend,
            precision,
            None if file is None else file.name,
            f"{backend} {version_of(backend)}",
            {},
            differences(scores, self._reference),
            _refusal(scores, self._reference),
            self._answer_goldens(run) if precision == "int8" else (),
        )
        self._console.print(f"{name}: {_losses(candidate)}", soft_wrap=True, highlight=False)
        return candidate

    def _score(self, name: str, run: RunBatch) -> dict[str, Scores]:
        """Every task's metrics. A progress bar shows the rows that are left."""
        columns = (*Progress.get_default_columns(), TextColumn("{task.completed:,.0f} rows"))
        with Progress(*columns, console=self._console, transient=True) as progress:
            bar = progress.add_task(name, total=sum(encoded.num_rows for encoded in self._encoded_tasks))

            def run_and_count(batch: Batch) -> Outputs:
                outputs = run(batch)
                progress.advance(bar, len(batch.lengths))
                return outputs

            return score_backend(run_and_count, self._validation, self._encoded_tasks)

    def with_speeds(self, candidates: Sequence[Candidate], threads: int) -> list[Candidate]:
        """The candidates with their speeds: the fastest first, refused ones last."""
        inputs = [encoded.inputs for encoded in self._encoded_tasks] or self._golden_inputs()
        rows = _rows(self._encoder, self._tasks, inputs, _TIMED_ROWS)
        runs = {candidate.name: self._runs[candidate.name] for candidate in candidates}
        with self._console.status("all take turns against the clock"):
            speeds = rows_per_second(runs, rows, self._encoder.pad_id, threads)
        timed = [replace(candidate, texts_per_s=speeds[candidate.name]) for candidate in candidates]
        return sorted(timed, key=_rank)

    def _golden_inputs(self) -> list[tuple[Input, ...]]:
        return [tuple(golden.input for golden in self._goldens if golden.task == task.name) for task in self._tasks]

    def _answer_goldens(self, run: RunBatch) -> tuple[Golden, ...]:
        ids = {task.name: task_id for task_id, task in enumerate(self._tasks)}
        goldens = []
        for golden in self._goldens:
            task_id = ids[golden.task]
            encoded = EncodedTask(self._encoder, self._tasks[task_id], task_id, (golden.input,))
            (answer,) = answer_task(run, self._tasks, encoded)
            goldens.append(replace(golden, answer=asdict(answer)))
        return tuple(goldens)


def _rank(candidate: Candidate) -> tuple[bool, float]:
    """Whether it is refused, and its time for one row in each batch size."""
    return candidate.refused is not None, sum(1 / speed for speed in candidate.texts_per_s.values())


def _losses(candidate: Candidate) -> str:
    """Each task's change of its main metric, as a line for the console."""
    changes = ", ".join(f"{task} {change:+.2f}" for task, change in candidate.differences.items())
    if candidate.refused:
        return f"refused, {candidate.refused}; {changes}"
    return changes or "no data to measure losses on"


def _refusal(scores: Mapping[str, Scores], reference: Mapping[str, Scores]) -> str | None:
    """Why a candidate must not serve: the task that loses most, if it loses too much."""
    changes = differences(scores, reference)
    task = min(changes, key=lambda name: changes[name], default=None)
    if task is None or changes[task] >= -MAX_LOSS:
        return None
    metric, before = next(iter(reference[task].items()))
    return f"task {task!r} loses {-changes[task]:.2f}: {metric} {scores[task][metric]:.4f} instead of {before:.4f}"


def _rows(
    encoder: InputEncoder, tasks: Sequence[Task], inputs: Sequence[Sequence[Input]], total: int = _CALIBRATION_ROWS
) -> list[tuple[int, Encoding]]:
    """About `total` rows with their task ids, the same number of each task."""
    per_task = max(1, -(-total // len(tasks)))
    rows = []
    for task_id, (task, task_inputs) in enumerate(zip(tasks, inputs, strict=True)):
        encodings = encoder.encode(task, subsample(task_inputs, per_task, seed=0))
        task_rows = [row for input_rows in encodings for row in input_rows]
        rows += [(task_id, row) for row in subsample(task_rows, per_task, seed=0)]
    return rows


def _feed(task_id: int, row: Encoding) -> Feed:
    return {
        "input_ids": np.array([row.input_ids]),
        "segment_ids": np.array([row.segment_ids]),
        "lengths": np.array([len(row)]),
        "task_ids": np.array([task_id]),
    }


def _cpu() -> str:
    """The name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
