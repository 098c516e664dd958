"""The tiny network as a checkpoint that can be served, in memory or in a store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from model.answers import answer
from model.encoding import InputEncoder
from model_store.load import Checkpoint
from model_store.manifest import Golden, Manifest
from model_store.save import Contents, save
from model_store.versions import promote
from service.runners import Forward, TorchRunner
from tests import tiny

METRICS = {task.name: {"accuracy": 0.75} for task in tiny.tasks()}
BASELINES = {task.name: {"accuracy": 0.25} for task in tiny.tasks()}


def in_memory() -> Checkpoint:
    """Version 1 of `tiny`, with a golden example of every task."""
    manifest = Manifest("tiny", 1, tiny.config(), tiny.tasks(), None, {}, METRICS, BASELINES, goldens(), {})
    return Checkpoint(manifest, tiny.network(), tiny.tokenizer())


def saved(store: Path) -> None:
    """Saves the same as `tiny/1` and makes it the current version."""
    contents = Contents(
        network=tiny.network(),
        tokenizer_json=tiny.tokenizer().to_str(),
        base=None,
        precision=torch.float32,
        metrics=METRICS,
        baselines=BASELINES,
        goldens=goldens(),
        provenance={},
        card="# tiny\n",
    )
    save(store, "tiny", contents)
    promote(store, "tiny", 1)


def goldens() -> tuple[Golden, ...]:
    """The answers of the tiny network, run directly, to one input of each task."""
    tasks = tiny.tasks()
    encoder = InputEncoder(tiny.tokenizer())
    forward = Forward(TorchRunner(tiny.network(), torch.device("cpu")), tasks, encoder.pad_id)
    found = []
    for task_id, task in enumerate(tasks):
        item = tiny.inputs()[task.name]
        (rows,) = encoder.encode(task, [item])
        logits = forward([task_id] * len(rows), rows)
        found.append(Golden(task.name, item, asdict(answer(task, item, rows, logits))))
    return tuple(found)
