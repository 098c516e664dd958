"""Logit cache: what teachers say of the training examples, kept so that other runs and seeds need not train them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polytask.model.answers import Logits
from polytask.model.tasks import Task
from polytask.training.data.examples import EncodedExample
from polytask.training.runs.checkpoints import Snapshot, read_snapshot, write_snapshot


def cache_path(folder: Path, task: Task, settings: Any, *examples: Sequence[EncodedExample]) -> Path:
    """The file of logits that are determined by a task's outputs, by settings (JSON values) and by lists of examples.

    The examples themselves are hashed, as the network reads them, so whatever changes them leads to another file.
    """
    outputs = [task.kind, task.num_outputs, task.raw_output, task.value_range]
    digest = hashlib.sha256(json.dumps([outputs, settings], sort_keys=True).encode())
    for part in examples:
        digest.update(f"{len(part)} examples".encode())
        for example in part:
            rows = [(row.input_ids, row.segment_ids, row.positions) for row in example.encodings]
            digest.update(repr((rows, example.target)).encode())
    return folder / f"{task.name}-{digest.hexdigest()[:32]}.safetensors"


def write_logits(path: Path, logits: Sequence[Logits]) -> None:
    """Writes the logits of examples, [any, outputs] each. Raises OSError."""
    write_snapshot(path, Snapshot({"logits": torch.from_numpy(np.concatenate(logits))}, {}))


def read_logits(path: Path, task: Task, examples: Sequence[EncodedExample]) -> list[Logits]:
    """The logits of each example that `write_logits` wrote. Raises RunError for any other file."""
    lengths = [len(each.encodings[0].positions) if task.token_level else len(each.encodings) for each in examples]
    logits = read_snapshot(path).tensors["logits"].numpy()
    return np.split(logits, np.cumsum(lengths)[:-1])
