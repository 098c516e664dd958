"""Lower states: computed once, and the same as those of the network."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch

from polytask.model.batch import collate
from polytask.model.encoding import Encoding
from polytask.model.network import Network
from polytask.training.tuning.lower_states import LowerStates
from tests.model.support.networks import build
from tests.support import tiny

ROWS = [Encoding(tuple(range(1, 2 + length)), (0,) * (1 + length)) for length in (4, 1, 7)]


def _network(first_layer: int) -> Network:
    """A network that is conditioned from that layer on."""
    layers = (first_layer,)
    config = replace(
        tiny.config(),
        alignment_layer=first_layer,
        conditional_attention=layers,
        conditional_layer_norm=layers,
        conditional_bottleneck=layers,
    )
    return build(config, tiny.tasks())


def _expected(network: Network) -> torch.Tensor:
    with torch.no_grad():
        states = network.lower(collate(ROWS, [0] * len(ROWS), token_level=False))
    assert isinstance(states, torch.Tensor)
    return states


@pytest.mark.parametrize("first_layer", [0, 1])
@pytest.mark.parametrize("most_bytes", [0, 900, 2**20])
def test_states_are_those_of_the_network(first_layer: int, most_bytes: int) -> None:
    """Kept or computed again, in any order and company, states are the network's up to the digits of float16."""
    network = _network(first_layer)
    expected, states = _expected(network), LowerStates(network, 0, most_bytes)
    for order in ([0, 1, 2], [2, 0], [1], [1, 2, 0]):
        found = states.of([ROWS[row] for row in order])
        for index, row in enumerate(order):
            length = len(ROWS[row])
            torch.testing.assert_close(found[index, :length], expected[row, :length], atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(("most_bytes", "times"), [(0, 3), (2**20, 1)])
def test_the_trunk_runs_once_where_there_is_room(most_bytes: int, times: int) -> None:
    """Rows whose states are kept are not computed again; without room each request computes them."""
    network = _network(1)
    states = LowerStates(network, 0, most_bytes)
    with mock.patch.object(network, "lower", wraps=network.lower) as lower:
        for _ in range(3):
            states.of(ROWS)
    assert lower.call_count == times


def test_embeddings_are_not_kept() -> None:
    """Where layer 0 is conditioned nothing is kept."""
    states = LowerStates(_network(0), 0)
    states.of(ROWS)
    assert not states._kept
