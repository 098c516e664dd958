"""Embeddings and distance bias; `test_pretrained.py` compares whole architectures."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from polytask.model.config import NetworkConfig
from polytask.model.embeddings import DistanceBias, Embeddings, _bucket
from polytask.model.encoder import EncoderLayer, LayerTables
from polytask.model.network import Network, freeze_backbone
from polytask.model.tasks import Task
from tests.model.support import literal
from tests.model.support.networks import (
    build,
    encode,
    largest_difference,
    one_row,
    random_batch,
    randomise_conditioning,
    run,
)

LENGTHS = (7, 40, 1, 23)


@pytest.fixture
def mpnet_like(tiny_config: NetworkConfig, tiny_tasks: tuple[Task, ...]) -> Network:
    """A network with every conditional module and MPNet's bias, both large enough to matter."""
    config = replace(tiny_config, num_segments=0, relative_attention_buckets=32)
    network = randomise_conditioning(build(config, tiny_tasks), std=0.3)
    assert network.encoder.embeddings.distance is not None
    torch.nn.init.normal_(network.encoder.embeddings.distance.weight, std=0.5)
    return network


def test_buckets_are_those_of_mpnet() -> None:
    """Every distance falls into the same bucket as in transformers."""
    distance = torch.arange(-700, 701)
    assert torch.equal(_bucket(distance, 32), MPNetEncoder.relative_position_bucket(distance))


@pytest.mark.parametrize("num_buckets", [4, 8, 16, 64])
def test_buckets_widen_with_the_distance(num_buckets: int) -> None:
    """Each direction has half of the buckets, all are used, and none is narrower than a nearer one."""
    ahead, behind = (_bucket(sign * torch.arange(1, 200), num_buckets) for sign in (1, -1))
    assert torch.equal(ahead, behind + num_buckets // 2)
    assert set(ahead.tolist()) | set(behind.tolist()) | {0} >= set(range(num_buckets)) - {num_buckets // 2}
    widths = behind.bincount()[1:-1].tolist()
    assert all(near <= far + 1 for near, far in pairwise(widths))


def test_the_distance_bias_is_the_query_to_key_table() -> None:
    """Entry [h, i, j] is the bias of head h for the distance from token i to token j."""
    bias = DistanceBias(8, 3)
    torch.nn.init.normal_(bias.weight)
    table = bias(30)
    assert table.shape == (1, 3, 30, 30)
    for query, key in ((0, 0), (2, 3), (3, 2), (1, 29), (29, 1)):
        bucket = int(_bucket(torch.tensor(key - query), 8))
        assert torch.equal(table[0, :, query, key], bias.weight[bucket])


def _literal_attention(layer: EncoderLayer, states: Tensor, bias: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d) + bias) V for the only row, head by head."""
    contexts = []
    width = states.shape[-1] // layer.num_heads
    query, key, value = (part(states) for part in (layer.query, layer.key, layer.value))
    for head in range(layer.num_heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[:, part] @ key[:, part].T / math.sqrt(width) + bias[head]
        contexts.append(scores.softmax(-1) @ value[:, part])
    attended = layer.attention_output(torch.cat(contexts, -1))
    assert isinstance(attended, Tensor)
    return attended


@torch.no_grad()
def test_distance_and_task_add_up(mpnet_like: Network) -> None:
    """The attention scores are the sum of the backbone's, the distance's and the task's."""
    layer, distance = mpnet_like.encoder.layers[0], mpnet_like.encoder.embeddings.distance
    assert isinstance(layer, EncoderLayer)
    assert layer.attention_bias is not None
    assert distance is not None
    tables = mpnet_like.condition()
    constants, is_token = tables.gather(torch.zeros(1, dtype=torch.long)), torch.ones(1, 20, dtype=torch.bool)
    states = torch.randn(1, 20, mpnet_like.config.hidden_size, generator=torch.Generator().manual_seed(0))
    of_distance = distance(20)[0]
    mask = next(mpnet_like.encoder._masks([layer], is_token, states.dtype, constants))
    of_task = literal.attention_bias(layer.attention_bias, mpnet_like.task_embedding()[1][0])[:20, :20]
    assert of_task.abs().max() > 0.1
    expected = _literal_attention(layer, states[0], of_distance + of_task)
    torch.testing.assert_close(layer._attend(states, mask, LayerTables())[0], expected, atol=1e-5, rtol=1e-5)


def test_padding_and_batch_mates_do_not_matter_with_distances(mpnet_like: Network) -> None:
    """With MPNet's bias and all conditional modules, a row in a padded batch has the states that it has alone."""
    batch = random_batch(mpnet_like.config, LENGTHS, (0, 3, 6, 1))
    states, outputs = encode(mpnet_like, batch), run(mpnet_like, batch)
    for row, length in enumerate(LENGTHS):
        alone = one_row(batch, row)
        assert largest_difference(states[row : row + 1, :length], encode(mpnet_like, alone), alone.lengths) < 1e-5
        torch.testing.assert_close(outputs.sentence[row : row + 1], run(mpnet_like, alone).sentence, atol=1e-5, rtol=0)


def test_without_segments_their_ids_say_nothing(tiny_config: NetworkConfig) -> None:
    """A network without segments ignores segment ids; one with segments reads them."""
    ids = torch.arange(12)[None]
    for num_segments, same in ((0, True), (2, False)):
        embeddings = Embeddings(replace(tiny_config, num_segments=num_segments)).eval()
        first, second = (embeddings(ids, torch.full_like(ids, segment)) for segment in (0, 1))
        assert torch.equal(first, second) == same


def test_narrow_embeddings_are_projected(tiny_config: NetworkConfig) -> None:
    """Embeddings that are narrower than the states are projected after the layer norm; others have no projection."""
    narrow = Embeddings(replace(tiny_config, embedding_size=12)).eval()
    assert narrow.word.weight.shape[1] == narrow.norm.weight.shape[0] == 12
    assert narrow.project is not None
    ids = torch.arange(5)[None]
    assert narrow(ids, torch.zeros_like(ids)).shape == (1, 5, tiny_config.hidden_size)
    assert Embeddings(replace(tiny_config, embedding_size=tiny_config.hidden_size)).project is None
    assert Embeddings(tiny_config).project is None


def test_all_of_it_is_frozen_with_the_embeddings(tiny_config: NetworkConfig, tiny_tasks: tuple[Task, ...]) -> None:
    """The projection and the distance bias belong to the backbone and are frozen with its lower layers."""
    config = replace(tiny_config, embedding_size=12, relative_attention_buckets=32)
    network = build(config, tiny_tasks)
    freeze_backbone(network, 0)
    assert not any(parameter.requires_grad for parameter in network.encoder.embeddings.parameters())
