"""torch on the CPU: a batch in, logits out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polytask.model.batch import collate
from polytask.model.encoding import Encoding, InputEncoder
from polytask.model.network import Network
from polytask.model.tasks import Task
from polytask.service.backends.contract import Backend
from polytask.service.backends.device import pick_device
from polytask.service.backends.forward import Forward
from polytask.service.backends.torch_cpu import TorchBackend
from polytask.service.errors import StartupError
from tests.support import tiny

CPU = torch.device("cpu")
BATCH = collate([Encoding((2, 7, 3), (0, 0, 0)), Encoding((2, 3), (0, 0))], [0, 5], token_level=True)


def test_the_backend_gives_what_the_network_gives() -> None:
    """The outputs are those of the network, in float32 and without gradients."""
    backend: Backend = TorchBackend(tiny.network())
    network = tiny.network()
    expected = network(BATCH, network.condition())
    found = backend.run(BATCH)
    assert (backend.name, backend.device, backend.precision) == ("torch", "cpu", "float32")
    assert found.token is not None
    torch.testing.assert_close(found.sentence, expected.sentence.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.token, expected.token.detach(), atol=1e-5, rtol=0)
    assert found.sentence.dtype == torch.float32
    assert not found.sentence.requires_grad


def test_the_hypernetwork_is_evaluated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task tables are computed once, however many batches run."""
    calls = 0
    condition = Network.condition

    def counted(network: Network) -> object:
        nonlocal calls
        calls += 1
        return condition(network)

    monkeypatch.setattr(Network, "condition", counted)
    backend = TorchBackend(tiny.network())
    for _ in range(3):
        backend.run(BATCH)
    assert calls == 1


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


def test_no_gpu_where_one_is_asked_for_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` takes the CPU if there is no GPU; `cuda` stops the start."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == CPU
    with pytest.raises(StartupError, match="POLYTASK_DEVICE is cuda"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cpu") == CPU
