"""Published weights, against tensors that transformers writes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, BertConfig, BertForMaskedLM, BertModel

from polytask.model.batch import Batch, collate
from polytask.model.config import NetworkConfig, Pooling
from polytask.model.encoding import Input, InputEncoder
from polytask.model.network import Network
from polytask.model.pretrained import config_from_published, fold_positions, rename_published
from polytask.model.tasks import Kind, Task
from tests.model.support.networks import MINILM, encode, largest_difference
from tests.support import backbones

_TASK = Task("task", Kind.CLASSIFICATION, 64, labels=("a", "b"))
_Pairs = list[tuple[str, str | None]]
_SINGLES = ("The cat sat.", "naïve 東京 \U0001f600!", ".,?" * 18)
_PAIRS: _Pairs = [("The cat sat.", "Who?"), ("?", ".,?" * 17), ("Paris", ""), ("", "it")]


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
    """Every size of the published config is kept, and no conditional module is on."""
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
    """The longest row has 128 tokens, or the number of positions of a smaller backbone."""
    config = config_from_published({**published, "max_position_embeddings": positions})
    assert config.max_length == max_length


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, "architecture 't5' is not supported; supported: bert, .*, xlm-roberta"),
        ({"model_type": "deberta-v2"}, "architecture 'deberta-v2'"),
        ({"model_type": "xlm-roberta-xl"}, "architecture 'xlm-roberta-xl'"),
        ({"model_type": None}, "architecture None"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported; supported: gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "is_decoder True is not supported"),
        ({"model_type": "roberta", "hidden_act": "gelu_new"}, "hidden_act 'gelu_new'"),
        ({"model_type": "distilbert", "activation": "relu"}, "activation 'relu' is not supported; supported: gelu"),
        ({"model_type": "mpnet", "relative_attention_num_buckets": 64}, "relative_attention_num_buckets 64"),
    ],
)
def test_other_architectures_are_refused(published: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    """A config whose weights would load but compute something else is refused by name."""
    with pytest.raises(ValueError, match=message):
        config_from_published({**published, **changes})


def _loaded(reference: Any) -> Network:
    """The network of a transformers model, with every tensor of its encoder loaded in its shape."""
    config = config_from_published(reference.config.to_dict())
    network = Network(replace(config, max_length=config.max_positions), [_TASK]).eval()
    tensors = fold_positions(rename_published(reference.state_dict()), network.config)
    encoder = {name: tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    assert encoder.keys() == {name for name in network.state_dict() if name.startswith("encoder.")}
    network.load_state_dict(encoder, strict=False)
    return network


def _both(kind: str, network: Network, pairs: _Pairs) -> tuple[Batch, dict[str, Any]]:
    """The same texts as our batch and as the input of transformers' models."""
    tokenizer = backbones.tokenizer(kind)
    encoder = InputEncoder(tokenizer.backend_tokenizer)
    rows = [row for (row,) in encoder.encode(_TASK, [Input(*pair) for pair in pairs])]
    assert not any(row.dropped_tokens for row in rows)
    batch = collate(rows, [0] * len(rows), token_level=True, pad_id=encoder.pad_id)
    first, second = zip(*pairs, strict=True)
    given = tokenizer(list(first), None if None in second else list(second), padding=True, return_tensors="pt")
    assert torch.equal(batch.input_ids, given["input_ids"])
    assert batch.input_ids.shape[1] <= network.config.max_length
    return batch, dict(given)


@pytest.mark.parametrize("kind", backbones.CONFIGS)
def test_token_states_are_those_of_transformers(kind: str) -> None:
    """From text to token states an architecture equals transformers' AutoModel: single texts, and a batch of pairs."""
    reference = backbones.reference(kind)
    network = _loaded(reference)
    batches: list[_Pairs] = [[(text, None)] for text in _SINGLES]
    for texts in (*batches, _PAIRS):
        batch, given = _both(kind, network, texts)
        with torch.no_grad():
            expected = reference(**given).last_hidden_state
        assert largest_difference(encode(network, batch), expected, batch.lengths) < 1e-5


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("electra", {"embedding_size": 32}),
        ("distilbert", {"sinusoidal_pos_embds": True}),
        ("bert", {"type_vocab_size": 1}),
        ("roberta", {"type_vocab_size": 2, "pad_token_id": 1}),
    ],
)
def test_variants_are_those_of_transformers_as_well(kind: str, options: dict[str, Any]) -> None:
    """With embeddings as wide as the states, fixed positions, or other segments, the states are those of transformers."""
    sizes = {name: value for name, value in options.items() if name != "type_vocab_size"}
    config = backbones.CONFIGS[kind](vocab_size=200, **sizes)
    config.type_vocab_size = options.get("type_vocab_size", 2)
    torch.manual_seed(0)
    reference = AutoModel.from_config(config, attn_implementation="eager").eval()
    network = _loaded(reference)
    ids = torch.randint(5, 200, (2, 40), generator=torch.Generator().manual_seed(0))
    batch = Batch(ids, torch.zeros_like(ids), torch.tensor([40, 40]), torch.tensor([0, 0]), token_level=True)
    with torch.no_grad():
        expected = reference(input_ids=ids).last_hidden_state
    assert largest_difference(encode(network, batch), expected, batch.lengths) < 1e-5


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "mpnet"])
def test_positions_count_from_the_first_token(kind: str) -> None:
    """Positions that no token has are removed, so that as many tokens fit as there are positions."""
    reference = backbones.reference(kind)
    assert len(reference.embeddings.position_embeddings.weight) == 66
    assert config_from_published(reference.config.to_dict()).max_positions == 64
    position = _loaded(reference).encoder.embeddings.position.weight
    segment = 0 if kind == "mpnet" else reference.embeddings.token_type_embeddings.weight
    assert torch.equal(position, reference.embeddings.position_embeddings.weight[2:] + segment)


def test_every_backbone_tensor_has_a_source(published: dict[str, Any]) -> None:
    """The renamed tensors of a BertModel are exactly the network's, apart from task embedding and heads."""
    network = _network(published)
    reference = BertModel(BertConfig(**published))
    renamed = rename_published(reference.state_dict())
    expected = {
        name: tensor.shape
        for name, tensor in network.state_dict().items()
        if not name.startswith(("task_embedding.", "heads."))
    }
    assert {name: tensor.shape for name, tensor in renamed.items()} == expected


def test_values_are_untouched(published: dict[str, Any]) -> None:
    """Renaming changes names only: no two tensors are swapped."""
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
    """The prefix `bert.` and the old names gamma and beta are understood, and heads of other tasks are left out."""
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
