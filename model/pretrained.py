"""Published weights, renamed at the door. Architectures: BERT (and MiniLM, which is a BERT)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from model.config import NetworkConfig

_BERT_PARTS = {
    "embeddings.word_embeddings": "encoder.embeddings.word",
    "embeddings.position_embeddings": "encoder.embeddings.position",
    "embeddings.token_type_embeddings": "encoder.embeddings.segment",
    "embeddings.LayerNorm": "encoder.embeddings.norm",
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attention_output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "expand",
    "output.dense": "contract",
    "output.LayerNorm": "output_norm",
    "pooler.dense": "pooler",
}
_BERT_NAME = re.compile(
    r"(?:bert\.)?(?:encoder\.layer\.(?P<layer>\d+)\.)?(?P<part>.+)\.(?P<tensor>weight|bias|gamma|beta)"
)
_OLD_TENSOR_NAMES = {"gamma": "weight", "beta": "bias"}


def config_from_published(published: Mapping[str, Any]) -> NetworkConfig:
    """The sizes in a published `config.json`, every conditional module off.

    Raises ValueError for an architecture or activation that is not supported, by name.
    """
    architecture = published.get("model_type")
    if architecture != "bert":
        raise ValueError(f"backbone architecture {architecture!r} is not supported; supported: bert")
    for key, only in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        if published.get(key, only) != only:
            raise ValueError(f"backbone {key} {published[key]!r} is not supported; supported: {only}")
    return NetworkConfig(
        vocab_size=published["vocab_size"],
        hidden_size=published["hidden_size"],
        num_layers=published["num_hidden_layers"],
        num_heads=published["num_attention_heads"],
        intermediate_size=published["intermediate_size"],
        max_positions=published["max_position_embeddings"],
        max_length=min(128, published["max_position_embeddings"]),
        num_segments=published["type_vocab_size"],
        layer_norm_eps=published["layer_norm_eps"],
        dropout=published["hidden_dropout_prob"],
        attention_dropout=published["attention_probs_dropout_prob"],
        conditional_alignment=False,
    )


def rename_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a published BERT under the names of `Network`. What the network has no place for is left out."""
    renamed = {}
    for name, tensor in tensors.items():
        match = _BERT_NAME.fullmatch(name)
        part = _BERT_PARTS.get(match["part"]) if match else None
        if match is None or part is None:
            continue
        layer = f"encoder.layers.{match['layer']}." if match["layer"] else ""
        renamed[f"{layer}{part}.{_OLD_TENSOR_NAMES.get(match['tensor'], match['tensor'])}"] = tensor
    return renamed
