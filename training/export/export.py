"""An export: a version's network as files for other engines, each way of running it measured, the fastest first."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
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
from polytask.model_store.exports import Candidate, Exports, save_exports
from polytask.model_store.load import load
from polytask.model_store.manifest import MANIFEST, Golden
from polytask.training.data.examples import TaskData
from polytask.training.data.issues import DataError
from polytask.training.data.splits import subsample
from polytask.training.data.version_data import training_inputs, validation_data
from polytask.training.evaluation.evaluate import RunBatch
from polytask.training.evaluation.metrics import Scores
from polytask.training.export.backend_trials import BATCH_SIZES, EncodedTask, answers, differences, score, speeds
from polytask.training.export.onnx_graph import onnx_graph
from polytask.training.export.quantisation import Feed, quantise

MOST_LOST = 0.5
"""Hundredths of its main metric that a task may lose."""

_FLOAT32, _FUSED, _PLAIN = "float32.onnx", "int8.onnx", "int8-plain.onnx"
_NUM_FLOAT_PRODUCTS = (0, 1, 2, 4, 8)
"""How many activations stay as they are in 8 bits: as few as it takes for every task to pass."""

_CALIBRATION_ROWS = 320
_TIMED_ROWS = 128


class Open(Protocol):
    """Opens an engine, with so many threads; what it gives runs batches."""

    def __call__(self, backend: str, precision: str, file: Path | None, network: Network, threads: int) -> RunBatch: ...


@dataclass(frozen=True, slots=True)
class Backends:
    """How the service would run a version.

    `installed`: whether it has an engine. `open`: an engine by name, precision and file (None: the network itself).
    """

    installed: Callable[[str], bool]
    open: Open
    threads: int


def export_version(folder: Path, data: Path | None, engines: Backends, console: Console) -> Path:
    """Exports the version in `folder` and gives the folder of its exports.

    `data`: the data folder of its recipe; without one there is no 8-bit file, and no loss is measured. Raises StoreError
    or DataError.
    """
    checkpoint = load(folder)
    manifest, encoder = checkpoint.manifest, InputEncoder(checkpoint.tokenizer)
    if data is None and not manifest.goldens:
        raise DataError(
            f"{manifest.name}/{manifest.version} has no golden examples to time engines on; give its data folder"
        )
    calibration = [] if data is None else _rows(encoder, manifest.tasks, training_inputs(folder, data))
    trial = _BackendEvaluation(
        manifest.tasks,
        encoder,
        [] if data is None else validation_data(folder, data),
        manifest.goldens,
        partial(engines.open, network=checkpoint.network, threads=engines.threads),
        console,
    )
    with tempfile.TemporaryDirectory() as work:
        candidates = _candidates(trial, checkpoint.network, calibration, engines.installed, Path(work))
        candidates = trial.timed(candidates, engines.threads)
        files = {path.name: path for path in Path(work).iterdir()}
        kept = {one.file: files[one.file] for one in candidates if one.file is not None and one.refused is None}
        exports = Exports(
            version=f"{manifest.name}/{manifest.version}",
            version_sha256=sha256_of(folder / MANIFEST),
            files={name: sha256_of(path) for name, path in kept.items()},
            candidates=tuple(candidates),
            cpu=_cpu(),
            threads=engines.threads,
            calibration=len(calibration),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        place = save_exports(folder, exports, kept)
    console.print(exports_table(exports))
    return place


def exports_table(exports: Exports) -> Table:
    """Every candidate with its speeds, and the task that loses most."""
    title = f"{exports.version}, texts a second on {exports.threads} threads of {exports.cpu}"
    sizes = (f"batches of {size}" for size in BATCH_SIZES)
    table = Table("engine", *sizes, "largest loss", "", title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for place, candidate in enumerate(exports.candidates):
        figures = (f"{candidate.texts_per_s[str(size)]:.0f}" for size in BATCH_SIZES)
        worst = min(candidate.differences.items(), key=lambda item: item[1], default=None)
        loss = "" if worst is None else f"{worst[0]} {worst[1]:+.2f}"
        table.add_row(candidate.name, *figures, loss, candidate.refused or ("" if place else "default"))
    return table


def _candidates(
    trial: _BackendEvaluation,
    network: Network,
    calibration: Sequence[tuple[int, Encoding]],
    installed: Callable[[str], bool],
    work: Path,
) -> list[Candidate]:
    """Every candidate whose engine is installed, with its losses; the files are written into the folder `work`."""
    candidates = [trial.judged("torch", "float32", None)]
    graph = onnx_graph(network)
    onnx.save(graph, work / _FLOAT32)
    candidates.append(trial.judged("onnxruntime", "float32", work / _FLOAT32))
    feeds = [_feed(*row) for row in calibration]
    spared = 0
    for spared in _NUM_FLOAT_PRODUCTS if feeds else ():
        onnx.save(quantise(graph, feeds, fused=True, spared=spared), work / _FUSED)
        eight_bits = trial.judged("onnxruntime", "int8", work / _FUSED)
        if eight_bits.refused is None:
            break
    if feeds:
        candidates.append(eight_bits)
    if installed("openvino"):
        candidates += [trial.judged("openvino", precision, work / _FLOAT32) for precision in ("float32", "bfloat16")]
        if feeds:
            onnx.save(quantise(graph, feeds, fused=False, spared=spared), work / _PLAIN)
            candidates.append(trial.judged("openvino", "int8", work / _PLAIN))
    return candidates


class _BackendEvaluation:
    """What all candidates of a version are measured on. The first one judged is what the others are compared with."""

    def __init__(
        self,
        tasks: Sequence[Task],
        encoder: InputEncoder,
        validation: Sequence[TaskData],
        goldens: Sequence[Golden],
        open_engine: Callable[[str, str, Path | None], RunBatch],
        console: Console,
    ) -> None:
        self._tasks = tasks
        self._encoder = encoder
        self._validation = validation
        self._goldens = goldens
        self._open = open_engine
        self._console = console
        self._questions = [
            EncodedTask(encoder, own.task, task_id, tuple(example.input for example in own.validation))
            for task_id, own in enumerate(validation)
        ]
        self._runs: dict[str, RunBatch] = {}
        self._reference: dict[str, Scores] | None = None

    def judged(self, backend: str, precision: str, file: Path | None) -> Candidate:
        """A candidate with what its tasks lose, and whether that is too much."""
        name = f"{backend}-{precision}"
        run = self._runs[name] = self._open(backend, precision, file)
        scores = self._scored(name, run)
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
            self._answered(run) if precision == "int8" else (),
        )
        self._console.print(f"{name}: {_losses(candidate)}", soft_wrap=True, highlight=False)
        return candidate

    def _scored(self, name: str, run: RunBatch) -> dict[str, Scores]:
        """What the tasks reach, with a bar of the rows that are left."""
        columns = (*Progress.get_default_columns(), TextColumn("{task.completed:,.0f} rows"))
        with Progress(*columns, console=self._console, transient=True) as progress:
            bar = progress.add_task(name, total=sum(question.num_rows for question in self._questions))

            def counted(batch: Batch) -> Outputs:
                outputs = run(batch)
                progress.advance(bar, len(batch.lengths))
                return outputs

            return score(counted, self._validation, self._questions)

    def timed(self, candidates: Sequence[Candidate], threads: int) -> list[Candidate]:
        """The candidates with their speeds, the fastest first, those that are refused last."""
        inputs = [question.inputs for question in self._questions] or self._golden_inputs()
        rows = _rows(self._encoder, self._tasks, inputs, _TIMED_ROWS)
        runs = {one.name: self._runs[one.name] for one in candidates}
        with self._console.status("all take turns against the clock"):
            found = speeds(runs, rows, self._encoder.pad_id, threads)
        timed = [replace(one, texts_per_s=found[one.name]) for one in candidates]
        return sorted(timed, key=lambda one: (one.refused is not None, sum(1 / x for x in one.texts_per_s.values())))

    def _golden_inputs(self) -> list[tuple[Input, ...]]:
        return [tuple(golden.input for golden in self._goldens if golden.task == task.name) for task in self._tasks]

    def _answered(self, run: RunBatch) -> tuple[Golden, ...]:
        ids = {task.name: task_id for task_id, task in enumerate(self._tasks)}
        found = []
        for golden in self._goldens:
            question = EncodedTask(self._encoder, self._tasks[ids[golden.task]], ids[golden.task], (golden.input,))
            (answer,) = answers(run, self._tasks, question)
            found.append(replace(golden, answer=asdict(answer)))
        return tuple(found)


def _losses(candidate: Candidate) -> str:
    """What the candidate changes at each task, for a line on the console."""
    changes = ", ".join(f"{task} {change:+.2f}" for task, change in candidate.differences.items())
    return (
        f"refused, {candidate.refused}; {changes}" if candidate.refused else changes or "no data to measure losses on"
    )


def _refusal(scores: Mapping[str, Scores], reference: Mapping[str, Scores]) -> str | None:
    """Why a candidate must not serve: the task that loses most, if that is too much."""
    lost = differences(scores, reference)
    task = min(lost, key=lambda name: lost[name], default=None)
    if task is None or lost[task] >= -MOST_LOST:
        return None
    metric, before = next(iter(reference[task].items()))
    return f"task {task!r} loses {-lost[task]:.2f}: {metric} {scores[task][metric]:.4f} instead of {before:.4f}"


def _rows(
    encoder: InputEncoder, tasks: Sequence[Task], inputs: Sequence[Sequence[Input]], total: int = _CALIBRATION_ROWS
) -> list[tuple[int, Encoding]]:
    """Rows of inputs of all tasks, about as many of each, with the task's id."""
    each = max(1, -(-total // len(tasks)))
    rows = []
    for task_id, (task, own) in enumerate(zip(tasks, inputs, strict=True)):
        encodings = [row for found in encoder.encode(task, subsample(own, each, seed=0)) for row in found]
        rows += [(task_id, row) for row in subsample(encodings, each, seed=0)]
    return rows


def _feed(task_id: int, row: Encoding) -> Feed:
    return {
        "input_ids": np.array([row.input_ids]),
        "segment_ids": np.array([row.segment_ids]),
        "lengths": np.array([len(row)]),
        "task_ids": np.array([task_id]),
    }


def _cpu() -> str:
    """What the processor calls itself."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
