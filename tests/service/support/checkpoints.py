"""The tiny network as a checkpoint, in memory or in a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from polytask.model.answers import answer
from polytask.model.encoding import InputEncoder
from polytask.model.tasks import Task
from polytask.model_store.exports import Candidate, Exports, save_exports
from polytask.model_store.load import Checkpoint
from polytask.model_store.manifest import MANIFEST, Golden, Manifest
from polytask.model_store.save import NewVersion, save
from polytask.model_store.versions import promote
from polytask.service.backends.forward import Forward
from polytask.service.backends.torch_cpu import TorchBackend
from tests.model_store.support import stores
from tests.support import tiny

METRICS = {task.name: {"accuracy": 0.75} for task in tiny.tasks()}
BASELINES = {task.name: {"accuracy": 0.25} for task in tiny.tasks()}


_INPUTS = {task.kind: tiny.inputs()[task.name] for task in tiny.tasks()}


def in_memory() -> Checkpoint:
    """Version 1 of `tiny`, with a golden example of every task."""
    manifest = Manifest("tiny", 1, tiny.config(), tiny.tasks(), None, {}, METRICS, BASELINES, goldens(), {})
    return Checkpoint(manifest, tiny.network(), tiny.tokenizer(), "# tiny\n")


def saved(
    store: Path, seed: int = 0, tasks: Sequence[Task] = tiny.tasks(), spoilt: str | None = None, name: str = "tiny"
) -> None:
    """Saves the next version of `tiny`, or `name`, of the network of that seed, and makes it current; the first is `in_memory`.

    The golden answer of the task `spoilt` is another one's.
    """
    own = goldens(seed, tasks)
    if spoilt is not None:
        own = tuple(golden for golden in own if golden.task != spoilt)
        own += tuple(golden for golden in goldens(seed + 1, tasks) if golden.task == spoilt)
    contents = NewVersion(
        network=tiny.network(seed, tasks),
        tokenizer_json=tiny.tokenizer().to_str(),
        base=None,
        precision=torch.float32,
        metrics={task.name: {"accuracy": 0.75} for task in tasks},
        baselines={task.name: {"accuracy": 0.25} for task in tasks},
        goldens=own,
        provenance={},
        card="# tiny\n",
    )
    promote(store, name, int(save(store, name, contents).name))


def export(version: Path, file: Path, answers: Sequence[Golden] = ()) -> None:
    """Makes `file` the 8-bit export of a version. `answers`: the golden ones of that engine's own."""
    chosen = Candidate("onnxruntime", "int8", "int8.onnx", "onnxruntime 1", {}, {}, None, tuple(answers))
    name, files = f"{version.parent.name}/{version.name}", {"int8.onnx": stores.sha256(file)}
    exports = Exports(name, stores.sha256(version / MANIFEST), files, (chosen,), "", 1, 0, "")
    save_exports(version, exports, {"int8.onnx": file})


def goldens(seed: int = 0, tasks: Sequence[Task] = tiny.tasks()) -> tuple[Golden, ...]:
    """The answers of a tiny network, run directly, to one input of each task."""
    encoder = InputEncoder(tiny.tokenizer())
    forward = Forward(TorchBackend(tiny.network(seed, tasks)), tasks, encoder.pad_id)
    found = []
    for task_id, task in enumerate(tasks):
        item = _INPUTS[task.kind]
        (rows,) = encoder.encode(task, [item])
        logits = forward([task_id] * len(rows), rows)
        found.append(Golden(task.name, item, asdict(answer(task, item, rows, logits))))
    return tuple(found)
