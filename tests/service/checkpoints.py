"""The tiny network as a checkpoint that can be served, in memory or in a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from model.answers import answer
from model.encoding import InputEncoder
from model.tasks import Task
from model_store.load import Checkpoint
from model_store.manifest import Golden, Manifest
from model_store.save import Contents, save
from model_store.versions import promote
from service.runners import Forward, TorchRunner
from tests import tiny

METRICS = {task.name: {"accuracy": 0.75} for task in tiny.tasks()}
BASELINES = {task.name: {"accuracy": 0.25} for task in tiny.tasks()}


_INPUTS = {task.kind: tiny.inputs()[task.name] for task in tiny.tasks()}


def in_memory() -> Checkpoint:
    """Version 1 of `tiny`, with a golden example of every task."""
    manifest = Manifest("tiny", 1, tiny.config(), tiny.tasks(), None, {}, METRICS, BASELINES, goldens(), {})
    return Checkpoint(manifest, tiny.network(), tiny.tokenizer(), "# tiny\n")


def saved(store: Path, seed: int = 0, tasks: Sequence[Task] = tiny.tasks(), spoilt: str | None = None) -> None:
    """Saves the next version of `tiny`, of the network of that seed, and makes it current; the first is `in_memory`.

    The golden answer of the task `spoilt` is another one's.
    """
    own = goldens(seed, tasks)
    if spoilt is not None:
        own = tuple(golden for golden in own if golden.task != spoilt)
        own += tuple(golden for golden in goldens(seed + 1, tasks) if golden.task == spoilt)
    contents = Contents(
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
    promote(store, "tiny", int(save(store, "tiny", contents).name))


def goldens(seed: int = 0, tasks: Sequence[Task] = tiny.tasks()) -> tuple[Golden, ...]:
    """The answers of a tiny network, run directly, to one input of each task."""
    encoder = InputEncoder(tiny.tokenizer())
    forward = Forward(TorchRunner(tiny.network(seed, tasks)), tasks, encoder.pad_id)
    found = []
    for task_id, task in enumerate(tasks):
        item = _INPUTS[task.kind]
        (rows,) = encoder.encode(task, [item])
        logits = forward([task_id] * len(rows), rows)
        found.append(Golden(task.name, item, asdict(answer(task, item, rows, logits))))
    return tuple(found)
