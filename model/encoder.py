"""A BERT-family encoder whose layers take conditioning.

Shapes: B rows, L tokens, D hidden size, H heads, T tasks, M longest row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.conditioning import (
    ConditionalAttentionBias,
    ConditionalBottleneck,
    ConditionalLayerNorm,
    FiLM,
    modulate,
)
from model.config import NetworkConfig


@dataclass(frozen=True, slots=True)
class LayerTables:
    """Conditioning of one layer, first axis the task (or, once gathered, the row); None where switched off."""

    attention_bias: Tensor | None
    attention_norm: Tensor | None
    bottleneck: Tensor | None
    output_norm: Tensor | None

    def map(self, function: Callable[[Tensor], Tensor]) -> LayerTables:
        """The same tables with `function` applied to each tensor."""
        tables = (self.attention_bias, self.attention_norm, self.bottleneck, self.output_norm)
        return LayerTables(*(None if table is None else function(table) for table in tables))


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything that depends on the task alone. `alignment`: [T, 2, D] or None; then one entry per layer."""

    alignment: Tensor | None
    layers: tuple[LayerTables, ...]

    def map(self, function: Callable[[Tensor], Tensor]) -> Tables:
        """The same tables with `function` applied to each tensor."""
        alignment = None if self.alignment is None else function(self.alignment)
        return Tables(alignment, tuple(layer.map(function) for layer in self.layers))

    def rows(self, task_ids_B: Tensor) -> Tables:
        """The constants of each row of a batch: one gather per table."""
        return self.map(lambda table: table[task_ids_B])


class Embeddings(nn.Module):
    """Word, position and segment embeddings, summed and normalised."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_positions, config.hidden_size)
        self.segment = nn.Embedding(config.num_segments, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids_BL: Tensor, segment_ids_BL: Tensor) -> Tensor:
        positions = torch.arange(input_ids_BL.shape[1], device=input_ids_BL.device)
        states = self.word(input_ids_BL) + self.position(positions) + self.segment(segment_ids_BL)
        return cast(Tensor, self.dropout(self.norm(states)))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual and a layer norm behind it."""

    def __init__(self, config: NetworkConfig, index: int) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        norm_task_size = size if index in config.conditional_layer_norm else None
        self.num_heads = config.num_heads
        self.attention_dropout = config.attention_dropout
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.attention_output = nn.Linear(size, size)
        self.attention_norm = ConditionalLayerNorm(size, config.layer_norm_eps, norm_task_size)
        self.expand = nn.Linear(size, inner)
        self.contract = nn.Linear(inner, size)
        self.output_norm = ConditionalLayerNorm(size, config.layer_norm_eps, norm_task_size)
        self.dropout = nn.Dropout(config.dropout)
        self.attention_bias = (
            ConditionalAttentionBias(size, config.max_length, config.attention_block_width)
            if index in config.conditional_attention
            else None
        )
        self.bottleneck = (
            ConditionalBottleneck(size, size, config.bottleneck_size)
            if index in config.conditional_bottleneck
            else None
        )

    def tables(self, task_TD: Tensor) -> LayerTables:
        """This layer's conditioning for all tasks."""
        return LayerTables(
            attention_bias=None if self.attention_bias is None else self.attention_bias.table(task_TD),
            attention_norm=self.attention_norm.table(task_TD),
            bottleneck=None if self.bottleneck is None else self.bottleneck.table(task_TD),
            output_norm=self.output_norm.table(task_TD),
        )

    def forward(self, states_BLD: Tensor, padding_B11L: Tensor, rows: LayerTables) -> Tensor:
        """`padding_B11L` is 0 at tokens and -inf at padding."""
        attended = self.dropout(self._attend(states_BLD, padding_B11L, rows.attention_bias))
        states = self.attention_norm(states_BLD + attended, rows.attention_norm)
        inner = functional.gelu(self.expand(states))
        states = self.output_norm(states + self.dropout(self.contract(inner)), rows.output_norm)
        if self.bottleneck is not None:
            states = self.bottleneck(states, rows.bottleneck)
        return cast(Tensor, states)

    def _attend(self, states_BLD: Tensor, padding_B11L: Tensor, film_B2M: Tensor | None) -> Tensor:
        def heads(projected_BLD: Tensor) -> Tensor:
            return projected_BLD.view(*projected_BLD.shape[:2], self.num_heads, -1).transpose(1, 2)

        query = heads(self.query(states_BLD))
        mask = padding_B11L
        if self.attention_bias is not None:
            mask = mask + self.attention_bias(film_B2M, states_BLD.shape[1])[:, None]
        attended_BHLd = functional.scaled_dot_product_attention(
            query,
            heads(self.key(states_BLD)),
            heads(self.value(states_BLD)),
            attn_mask=mask.to(query.dtype),
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        return cast(Tensor, self.attention_output(attended_BHLd.transpose(1, 2).flatten(2)))


class Encoder(nn.Module):
    """Token ids to token states, each row under its own task's conditioning."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.alignment = FiLM(config.hidden_size, config.hidden_size) if config.conditional_alignment else None
        self.layers = nn.ModuleList(EncoderLayer(config, index) for index in range(config.num_layers))

    def tables(self, raw_TD: Tensor, transformed_TD: Tensor) -> Tables:
        """The task tables: the alignment reads the raw task vectors, the layers the transformed ones."""
        alignment = None if self.alignment is None else self.alignment(raw_TD)
        layers = (cast(EncoderLayer, layer).tables(transformed_TD) for layer in self.layers)
        return Tables(alignment, tuple(layers))

    def forward(self, input_ids_BL: Tensor, segment_ids_BL: Tensor, is_token_BL: Tensor, rows: Tables) -> Tensor:
        """Token states [B, L, D]. `rows` holds the gathered constants of each row."""
        states = self.embeddings(input_ids_BL, segment_ids_BL)
        if rows.alignment is not None:
            states = modulate(states, rows.alignment)
        padding = torch.zeros_like(is_token_BL, dtype=states.dtype).masked_fill(~is_token_BL, float("-inf"))
        for layer, constants in zip(self.layers, rows.layers, strict=True):
            states = layer(states, padding[:, None, None], constants)
        return cast(Tensor, states)
