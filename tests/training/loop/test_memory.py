"""Memory of training: an example with very many rows."""

from __future__ import annotations

import torch

from polytask.model.batch import collate
from polytask.model.encoding import Encoding
from polytask.training.loop.memory import run_in_pieces
from tests.training.conftest import Workshop


def test_pieces_have_the_outputs_and_gradients_of_the_whole(workshop: Workshop) -> None:
    """Rows that are computed in pieces have the same outputs and gradients, also in the hypernetwork."""
    network = workshop.network().eval()  # no dropout, of which pieces would draw other values
    rows = [Encoding((2, *range(5, 5 + length), 3), (0,) * (length + 2)) for length in (1, 4, 6, 2, 3)]
    batch = collate(rows, [0] * len(rows), token_level=False)
    found = []
    for max_tokens in (1000, 16):
        network.zero_grad()
        outputs = run_in_pieces(network, batch, network.condition(), max_tokens).sentence
        torch.autograd.backward(outputs.square().sum())
        found.append([outputs.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(pieces, whole, rtol=1e-3, atol=1e-4)
