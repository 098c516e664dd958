"""Published weights and configs under our names, for BERT, DistilBERT, ELECTRA, MPNet, RoBERTa and XLM-R."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from polytask.model.config import NetworkConfig

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
"""Fields of `NetworkConfig` and their keys in BERT's `config.json`. MiniLM is a BERT."""

_ARCHITECTURES: dict[str, dict[str, str]] = {
    "bert": _SIZES,
    "distilbert": {
        "vocab_size": "vocab_size",
        "hidden_size": "dim",
        "num_layers": "n_layers",
        "num_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
    },
    "electra": _SIZES | {"embedding_size": "embedding_size"},
    "mpnet": _SIZES,
    "roberta": _SIZES,
    "xlm-roberta": _SIZES,
}
_SEGMENTED = frozenset({"bert", "electra", "roberta", "xlm-roberta"})
_POSITIONS_AFTER_PADDING = frozenset({"mpnet", "roberta", "xlm-roberta"})
_MPNET_BUCKETS = 32

# Keys of `config.json` that change what the same weights compute, and the only supported value of each.
_SUPPORTED_VALUES = {
    "hidden_act": "gelu",
    "activation": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    # transformers supports no other value: its MPNet reads the size of the table here, but uses 32 in the forward.
    "relative_attention_num_buckets": _MPNET_BUCKETS,
}

# Names of all architectures together; no name has two meanings.
_PARTS = {
    "embeddings.word_embeddings": "encoder.embeddings.word",
    "embeddings.position_embeddings": "encoder.embeddings.position",
    "embeddings.token_type_embeddings": "encoder.embeddings.segment",
    "embeddings.LayerNorm": "encoder.embeddings.norm",
    "embeddings_project": "encoder.embeddings.project",
    "encoder.relative_attention_bias": "encoder.embeddings.distance",
    "pooler.dense": "pooler",
}
_LAYER_PARTS = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attention_output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "expand",
    "output.dense": "contract",
    "output.LayerNorm": "output_norm",
    # MPNet
    "attention.attn.q": "query",
    "attention.attn.k": "key",
    "attention.attn.v": "value",
    "attention.attn.o": "attention_output",
    "attention.LayerNorm": "attention_norm",
    # DistilBERT
    "attention.q_lin": "query",
    "attention.k_lin": "key",
    "attention.v_lin": "value",
    "attention.out_lin": "attention_output",
    "sa_layer_norm": "attention_norm",
    "ffn.lin1": "expand",
    "ffn.lin2": "contract",
    "output_layer_norm": "output_norm",
}
_NAME = re.compile(
    r"(?:(?:bert|distilbert|electra|mpnet|roberta)\.)?(?:(?:encoder|transformer)\.layer\.(?P<layer>\d+)\.)?"
    r"(?P<part>.+)\.(?P<tensor>weight|bias|gamma|beta)"
)
_OLD_TENSOR_NAMES = {"gamma": "weight", "beta": "bias"}
_POSITION = "encoder.embeddings.position.weight"
_SEGMENT = "encoder.embeddings.segment.weight"


def config_from_published(published: Mapping[str, Any]) -> NetworkConfig:
    """The network of a published `config.json`, with every conditional module off.

    Raises ValueError that names an architecture, activation or other option that is not supported.
    """
    architecture = published.get("model_type")
    if architecture not in _ARCHITECTURES:
        supported = ", ".join(_ARCHITECTURES)
        raise ValueError(f"backbone architecture {architecture!r} is not supported; supported: {supported}")
    for key, value in _SUPPORTED_VALUES.items():
        if published.get(key, value) != value:
            raise ValueError(f"backbone {key} {published[key]!r} is not supported; supported: {value}")
    sizes = {name: published[key] for name, key in _ARCHITECTURES[architecture].items()}
    if sizes.get("embedding_size") == sizes["hidden_size"]:
        del sizes["embedding_size"]
    num_segments = published.get("type_vocab_size", 2) if architecture in _SEGMENTED else 0
    max_positions = published["max_position_embeddings"] - _first_position(architecture, published)
    return NetworkConfig(
        **sizes,
        max_positions=max_positions,
        max_length=min(128, max_positions),
        # A single segment is none: `fold_positions` adds it to the positions.
        num_segments=0 if num_segments == 1 else num_segments,
        layer_norm_eps=published.get("layer_norm_eps", 1e-12),
        relative_attention_buckets=_MPNET_BUCKETS if architecture == "mpnet" else 0,
        conditional_alignment=False,
    )


def _first_position(architecture: str, published: Mapping[str, Any]) -> int:
    """Index in the position table of the first token's embedding."""
    if architecture not in _POSITIONS_AFTER_PADDING:
        return 0
    # MPNet's is fixed and does not follow the padding id of its config.
    return 2 if architecture == "mpnet" else int(published.get("pad_token_id", 1)) + 1


def rename_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors under the names of `Network`, without those that the network does not have."""
    renamed = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        part = (_LAYER_PARTS if match["layer"] else _PARTS).get(match["part"])
        if part is None:
            continue
        layer = f"encoder.layers.{match['layer']}." if match["layer"] else ""
        renamed[f"{layer}{part}.{_OLD_TENSOR_NAMES.get(match['tensor'], match['tensor'])}"] = tensor
    return renamed


def fold_positions(tensors: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """Renamed tensors with a position table that starts at the first token, as `Network` reads it.

    Embeddings before the first token's are dropped. If all tokens have one segment, it is added to every position.
    """
    folded = dict(tensors)
    if _POSITION in folded:
        folded[_POSITION] = folded[_POSITION][-config.max_positions :]
        if config.num_segments == 0 and _SEGMENT in folded:
            folded[_POSITION] = folded[_POSITION].float() + folded.pop(_SEGMENT).float()
    return folded
