"""torch on the CPU: a batch in, logits out."""

from __future__ import annotations

import pytest
import torch

from polytask.model.batch import collate
from polytask.model.encoding import Encoding
from polytask.model.network import Network
from polytask.service.backends.contract import Backend
from polytask.service.backends.torch_cpu import TorchBackend
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
