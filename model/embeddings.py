"""Embeddings of tokens, positions and segments, and MPNet's bias on attention scores by distance.

Shapes: B rows, L tokens, H heads, D hidden size.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from polytask.model.conditioning import Conditional
from polytask.model.config import NetworkConfig
from polytask.model.kernels import Dropout
from polytask.model.word_shapes import WordShape

_MAX_DISTANCE = 128
"""Distance in tokens from which on all share the last bucket, as in T5 and MPNet."""


class Embeddings(nn.Module):
    """Word, position and segment embeddings, summed, normalised, and projected if they are narrower than the states.

    Positions count from 0 and segments are optional. `pretrained.fold_positions` removes other conventions at loading.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.embedding_size or config.hidden_size
        self.word = nn.Embedding(config.vocab_size, width)
        self.position = nn.Embedding(config.max_positions, width)
        self.segment = nn.Embedding(config.num_segments, width) if config.num_segments else None
        self.shape = ShapeEmbedding(width) if config.word_shapes else None
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)
        self.project = None if width == config.hidden_size else nn.Linear(width, config.hidden_size)
        # Shared by all layers; here rather than in the encoder, so that it is frozen with the embeddings.
        self.distance = (
            DistanceBias(config.relative_attention_buckets, config.num_heads)
            if config.relative_attention_buckets
            else None
        )

    def forward(self, input_ids_BL: Tensor, segment_ids_BL: Tensor) -> Tensor:
        positions = torch.arange(input_ids_BL.shape[1], device=input_ids_BL.device)
        states = self.word(input_ids_BL) + self.position(positions)
        if self.shape is not None and self.segment is not None:
            states = states + functional.embedding(segment_ids_BL, self.shape.behind(self.segment.weight))
        elif self.segment is not None:
            states = states + self.segment(segment_ids_BL)
        states = self.dropout(self.norm(states))
        return cast(Tensor, states if self.project is None else self.project(states))


class ShapeEmbedding(Conditional):
    """Segments for the shapes of words, as differences to the first segment of the backbone: at the start there is none.

    A table of its own, which is trained where the backbone's embeddings are frozen.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(WordShape), width))

    def behind(self, segments: Tensor) -> Tensor:
        """The backbone's segments, [S, width], with those of the shapes behind them."""
        return torch.cat([segments, segments[:1] + self.weight])


class DistanceBias(nn.Module):
    """One bias per head and bucket of token distances, added to the attention scores of every layer.

    Source: Song et al., "MPNet", NeurIPS 2020, with the buckets of Raffel et al., "T5", JMLR 2020. Half of the buckets
    are for keys after the query. In each half, half of the buckets hold one distance each, and the others hold ranges
    that widen up to 128 tokens.
    """

    def __init__(self, num_buckets: int, num_heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_buckets, num_heads))

    def forward(self, length: int) -> Tensor:
        """The bias for rows of `length` tokens: [1, H, L, L], queries before keys."""
        positions = torch.arange(length, device=self.weight.device)
        bucket_LL = _bucket(positions[None] - positions[:, None], len(self.weight))
        return self.weight[bucket_LL].permute(2, 0, 1)[None]


def _bucket(distance: Tensor, num_buckets: int) -> Tensor:
    half = num_buckets // 2
    exact = half // 2
    apart = distance.abs()
    # Computed exactly as in transformers: a distance at a bucket's edge must fall into the same bucket.
    share = torch.log(apart.clamp(min=1).float() / exact) / math.log(_MAX_DISTANCE / exact)
    ranged = (exact + (share * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(apart < exact, apart, ranged) + (distance > 0) * half
