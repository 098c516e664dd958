"""Sizes of a network, compared with the shapes of its stored tensors before memory is taken for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from polytask.model.config import NetworkConfig
from polytask.model.word_shapes import WordShape

_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


class _Size(NamedTuple):
    """A size of the manifest, and the axis of the tensors that have it, by the end of their names."""

    name: str
    value: int
    tensor: str
    axis: int


def size_mismatches(network: NetworkConfig, tensors: Mapping[str, Tensor]) -> list[str]:
    """The sizes that the tensors do not have. With none, a network of `network` is no larger than its tensors."""
    mismatches = []
    for size in _sizes(network):
        found = {
            tensor.shape[size.axis] if size.axis < tensor.ndim else 0
            for name, tensor in tensors.items()
            if name.endswith(size.tensor)
        }
        if found != {size.value}:
            has = " and ".join(map(str, sorted(found))) or "none"
            mismatches.append(f"{size.name} {size.value} ({size.tensor} has {has})")
    num_layers = len({match[1] for match in map(_LAYER.match, tensors) if match})
    if num_layers != network.num_layers:
        mismatches.append(f"num_layers {network.num_layers} (there are {num_layers})")
    return mismatches


def _sizes(network: NetworkConfig) -> Iterator[_Size]:
    """Those that the network's own modules have; the size of a module that it lacks means nothing."""
    yield _Size("vocab_size", network.vocab_size, "embeddings.word.weight", 0)
    yield _Size("embedding_size", network.embedding_size or network.hidden_size, "embeddings.word.weight", 1)
    yield _Size("max_positions", network.max_positions, "embeddings.position.weight", 0)
    yield _Size("task_size", network.task_vector_size, "task_embedding.weight", 1)
    yield _Size("hidden_size", network.hidden_size, ".query.weight", 0)
    yield _Size("intermediate_size", network.intermediate_size, ".expand.weight", 0)
    if network.joint_rows:
        yield _Size("joint_rows", network.joint_rows, "task_embedding.weight", 0)
    for table in _tuned_tables(network) if network.num_tuned_rows else ():
        yield _Size("tuned rows", network.num_tuned_rows, f"tuned_rows.{table}", 0)
    if network.residual_rank:
        yield _Size("residual_rank", network.residual_rank, "_down", 2)
    if network.num_segments:
        yield _Size("num_segments", network.num_segments, "embeddings.segment.weight", 0)
    if network.word_shapes:
        yield _Size("word_shapes", len(WordShape), "embeddings.shape.weight", 0)
    if network.relative_attention_buckets:
        buckets = network.relative_attention_buckets
        yield _Size("relative_attention_buckets", buckets, "embeddings.distance.weight", 0)
    if network.conditional_bottleneck:
        yield _Size("bottleneck_size", network.bottleneck_size, ".bottleneck.down.weight", 0)
    if network.conditional_attention:
        yield _Size("max_length", network.max_length, ".attention_bias.matrix", 0)
        yield _Size("attention_blocks", network.attention_block_width, ".attention_bias.matrix", 1)
    if network.film_rank and _has_films(network):
        yield _Size("film_rank", network.film_rank, ".reduce.weight", 0)


def _tuned_tables(network: NetworkConfig) -> Iterator[str]:
    """Names of tables that tuned rows have."""
    if network.conditional_alignment:
        yield "alignment"
    if network.conditional_attention:
        yield "attention"
    for layer in network.conditional_layer_norm:
        yield f"layer_{layer}_output_norm"
    for layer in network.conditional_bottleneck:
        yield f"layer_{layer}_bottleneck"
    for layer in network.residual_layers:
        yield f"layer_{layer}_{network.residual_products[0]}_down"
    if network.conditional_pooling:
        yield "pooling"


def _has_films(network: NetworkConfig) -> bool:
    return bool(
        network.conditional_alignment
        or network.conditional_attention
        or network.conditional_layer_norm
        or network.conditional_bottleneck
        or network.conditional_pooling
    )
