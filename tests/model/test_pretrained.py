"""Tests of model/pretrained.py, on the tensors that transformers itself writes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import BertConfig, BertForMaskedLM, BertModel

from model.config import NetworkConfig, Pooling
from model.network import Network
from model.pretrained import config_from_published, rename_published
from model.tasks import Kind, Task
from tests.model.networks import MINILM

_TASK = Task("task", Kind.CLASSIFICATION, 32, labels=("a", "b"))


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    """A published BERT config of toy size."""
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=128,
        type_vocab_size=3,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0.3,
    )
    return dict(config.to_dict())


def _network(published: dict[str, Any]) -> Network:
    return Network(replace(config_from_published(published), pooling=Pooling.CLS), [_TASK])


def test_sizes_are_taken_over(published: dict[str, Any]) -> None:
    """Every size of the published config arrives, and no conditional module is on."""
    assert config_from_published(published) == NetworkConfig(
        vocab_size=50,
        hidden_size=16,
        num_layers=2,
        num_heads=4,
        intermediate_size=24,
        max_positions=128,
        num_segments=3,
        layer_norm_eps=1e-6,
        dropout=0.2,
        attention_dropout=0.3,
        conditional_alignment=False,
    )


@pytest.mark.parametrize(("positions", "max_length"), [(512, 128), (128, 128), (64, 64)])
def test_rows_are_no_longer_than_the_positions(published: dict[str, Any], positions: int, max_length: int) -> None:
    """The longest row is 128 tokens, or as many as a smaller backbone has positions."""
    config = config_from_published({**published, "max_position_embeddings": positions})
    assert config.max_length == max_length


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "architecture 'roberta' is not supported; supported: bert"),
        ({"model_type": None}, "architecture None"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported; supported: gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
    ],
)
def test_other_architectures_are_refused(published: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    """What would load but compute something else is refused by name."""
    with pytest.raises(ValueError, match=message):
        config_from_published({**published, **changes})


def test_every_backbone_tensor_has_a_source(published: dict[str, Any]) -> None:
    """The renamed tensors of a BertModel are exactly the network's own, apart from task embedding and heads."""
    network = _network(published)
    reference = BertModel(BertConfig(**published))
    renamed = rename_published(reference.state_dict())
    own = {
        name: tensor.shape
        for name, tensor in network.state_dict().items()
        if not name.startswith(("task_embedding.", "heads."))
    }
    assert {name: tensor.shape for name, tensor in renamed.items()} == own


def test_values_are_untouched(published: dict[str, Any]) -> None:
    """Renaming changes names only: query stays query, and no two tensors change places."""
    tensors = BertModel(BertConfig(**published)).state_dict()
    renamed = rename_published(tensors)
    pairs = {
        "embeddings.word_embeddings.weight": "encoder.embeddings.word.weight",
        "embeddings.token_type_embeddings.weight": "encoder.embeddings.segment.weight",
        "encoder.layer.1.attention.self.query.weight": "encoder.layers.1.query.weight",
        "encoder.layer.1.attention.self.key.bias": "encoder.layers.1.key.bias",
        "encoder.layer.0.attention.output.dense.weight": "encoder.layers.0.attention_output.weight",
        "encoder.layer.0.output.LayerNorm.weight": "encoder.layers.0.output_norm.weight",
        "encoder.layer.0.output.dense.weight": "encoder.layers.0.contract.weight",
    }
    for name, new in pairs.items():
        assert renamed[new] is tensors[name]


def test_task_checkpoints_load_as_well(published: dict[str, Any]) -> None:
    """The prefix `bert.` and the old names gamma and beta are understood, and foreign heads are left out."""
    tensors = BertForMaskedLM(BertConfig(**published)).state_dict()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    assert set(old) != set(tensors)
    renamed = rename_published(old)
    expected = {
        name
        for name in _network(published).state_dict()
        if not name.startswith(("task_embedding.", "heads.", "pooler."))
    }
    assert set(renamed) == expected


def test_the_embedded_backbone_is_complete() -> None:
    """The installed all-MiniLM-L6-v2 has every tensor of its encoder, in the right shape."""
    config = config_from_published(json.loads((MINILM / "config.json").read_text()))
    with torch.device("meta"):
        network = Network(config, [_TASK])
    with safe_open(MINILM / "model.safetensors", "pt") as file:
        renamed = rename_published({name: torch.empty(file.get_slice(name).get_shape()) for name in file.keys()})  # noqa: SIM118
    encoder = {name: tensor.shape for name, tensor in network.state_dict().items() if name.startswith("encoder.")}
    assert encoder == {name: tensor.shape for name, tensor in renamed.items() if name.startswith("encoder.")}
