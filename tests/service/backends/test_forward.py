"""Forward: rows to their own logits."""

from __future__ import annotations

import numpy as np

from polytask.model.encoding import Encoding, InputEncoder
from polytask.model.network import Network
from polytask.model.tasks import Task
from polytask.service.backends.forward import Forward
from polytask.service.backends.torch_cpu import TorchBackend
from tests.support import tiny


def test_each_row_gets_its_own_logits(tiny_tasks: tuple[Task, ...], tiny_network: Network) -> None:
    """A row's logits are its task's columns of the outputs, and for a token-level task as many rows as it has tokens."""
    encoder = InputEncoder(tiny.tokenizer())
    forward = Forward(TorchBackend(tiny_network), tiny_tasks, encoder.pad_id)
    task_ids: list[int] = []
    encodings: list[Encoding] = []
    for task_id, task in enumerate(tiny_tasks):
        (rows,) = encoder.encode(task, [tiny.inputs()[task.name]])
        task_ids += [task_id] * len(rows)
        encodings += rows
    together = forward(task_ids, encodings)
    for task_id, encoding, logits in zip(task_ids, encodings, together, strict=True):
        task = tiny_tasks[task_id]
        shape = (len(encoding), task.num_outputs) if task.token_level else (task.num_outputs,)
        assert logits.shape == shape
        (alone,) = forward([task_id], [encoding])
        np.testing.assert_allclose(logits, alone, atol=1e-4)
