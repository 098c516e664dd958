"""CUDA agrees with the CPU within stated bounds. Run by `make gpu`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from polytask.model.answers import Logits
from polytask.model.encoding import Encoding, InputEncoder
from polytask.model_store import DEFAULT_STORE
from polytask.model_store.load import load
from polytask.model_store.versions import resolve
from polytask.service.backends.forward import Forward
from polytask.service.backends.selection import open_torch
from polytask.service.backends.shape_buckets import Buckets
from polytask.service.config.cpu_cores import available_cores
from polytask.service.engine.golden_check import TOLERANCES, check_goldens

pytestmark = pytest.mark.gpu

BF16_BOUND = 0.25
"""Logits of a row in bf16, on CUDA against fp32 on the CPU, alone or in a batch; logits lie within about ±10."""


def demo_rows() -> tuple[list[int], list[Encoding]]:
    """Rows of all golden examples of the embedded checkpoint."""
    checkpoint = load(resolve(DEFAULT_STORE, "demo"))
    encoder, tasks = InputEncoder(checkpoint.tokenizer), checkpoint.manifest.tasks
    ids = {task.name: task_id for task_id, task in enumerate(tasks)}
    rows = [
        (ids[golden.task], row)
        for golden in checkpoint.manifest.goldens
        for row in encoder.encode(tasks[ids[golden.task]], [golden.input])[0]
    ]
    return [task_id for task_id, _ in rows], [row for _, row in rows]


def forward_on(device: str, *, graphs: bool = True) -> Forward:
    """The embedded checkpoint on a device, on CUDA with graphs, as it is served, or without."""
    checkpoint = load(resolve(DEFAULT_STORE, "demo"))
    buckets = Buckets.up_to(checkpoint.network.config.max_length) if graphs else None
    backend = open_torch(checkpoint.network, available_cores(), device, buckets)
    return Forward(backend, checkpoint.manifest.tasks, InputEncoder(checkpoint.tokenizer).pad_id)


def worst(left: Sequence[Logits], right: Sequence[Logits]) -> float:
    """The largest difference between two lists of logits."""
    return max(float(np.abs(one - other).max()) for one, other in zip(left, right, strict=True))


def test_cuda_agrees_with_the_cpu() -> None:
    """Mixed rows of all tasks have the CPU's logits within the stated bound."""
    task_ids, rows = demo_rows()
    assert worst(forward_on("cuda")(task_ids, rows), forward_on("cpu")(task_ids, rows)) < BF16_BOUND


def test_a_row_does_not_depend_on_its_batch_mates() -> None:
    """A row alone has the logits that it has in a batch of other tasks and lengths, within the stated bound."""
    task_ids, rows = demo_rows()
    forward = forward_on("cuda")
    alone = [forward([task_id], [row])[0] for task_id, row in zip(task_ids, rows, strict=True)]
    assert worst(forward(task_ids, rows), alone) < BF16_BOUND


def test_the_golden_answers_hold_in_bf16() -> None:
    """The golden examples get their stored answers within the service's tolerance for bf16."""
    checkpoint = load(resolve(DEFAULT_STORE, "demo"))
    encoder = InputEncoder(checkpoint.tokenizer)
    check_goldens(
        forward_on("cuda"), checkpoint.manifest.tasks, encoder, checkpoint.manifest.goldens, TOLERANCES["bfloat16"]
    )


def test_a_failed_batch_leaves_the_device_usable() -> None:
    """After a batch that fails, the next one has the same logits as before."""
    task_ids, rows = demo_rows()
    forward = forward_on("cuda")
    before = forward(task_ids, rows)
    with pytest.raises(MemoryError):
        forward([0] * 2**17, [Encoding((1,) * 384, (0,) * 384)] * 2**17)
    assert worst(forward(task_ids, rows), before) < BF16_BOUND
