"""Encoder of the BERT family with conditional layers, and the task tables that condition it.

Shapes: B rows, L tokens, D hidden size, H heads, T tasks, E size of a task vector, M longest row,
N layers with an attention bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from polytask.model.conditioning import (
    AlignmentMatrix,
    ConditionalAttentionBias,
    ConditionalBottleneck,
    ConditionalLayerNorm,
    FiLM,
    attention_masks,
    modulate,
)
from polytask.model.config import AlignmentForm, BottleneckForm, NetworkConfig
from polytask.model.embeddings import Embeddings
from polytask.model.kernels import Dropout, attend


@dataclass(frozen=True, slots=True)
class LayerTables:
    """Conditioning of one layer; None where a module is off. The first axis is the task or, once gathered, the row."""

    attention_norm: Tensor | None
    bottleneck: Tensor | None
    output_norm: Tensor | None
    bottleneck_norm: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> LayerTables:
        """The same tables with `function` applied to each tensor."""
        tables = (self.attention_norm, self.bottleneck, self.output_norm, self.bottleneck_norm)
        return LayerTables(*(None if table is None else function(table) for table in tables))


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything that depends on the task alone; None where a module is off.

    `alignment`: [T, 2, D]. `attention`: [T, N, 2, M], for the N layers with an attention bias. `layers`: one per layer.
    `pooling`: [T, D]. `matrices`: R of the N layers as diagonal blocks, [N, M, M], shared by all tasks.
    """

    alignment: Tensor | None
    attention: Tensor | None
    layers: tuple[LayerTables, ...]
    pooling: Tensor | None = None
    matrices: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Tables:
        """The same tables with `function` applied to each tensor that has a task axis."""
        alignment, attention, pooling = (
            None if table is None else function(table) for table in (self.alignment, self.attention, self.pooling)
        )
        return Tables(alignment, attention, tuple(layer.map(function) for layer in self.layers), pooling, self.matrices)

    def gather(self, task_ids_B: Tensor) -> Tables:
        """The constants of each row of a batch: one gather per table."""
        return self.map(lambda table: table[task_ids_B])


class JoinedTables:
    """Task tables joined to one matrix, [T, ...], so that a batch needs one gather instead of one for each table.

    The pooling table stays separate, as it may have another dtype.
    """

    def __init__(self, tables: Tables) -> None:
        self._pooling = tables.pooling
        parts: list[Tensor] = []

        def shaped(table: Tensor) -> Tensor:
            parts.append(table.flatten(1))
            return table

        self._shapes = replace(tables, pooling=None).map(shaped)
        self._sizes = [part.shape[1] for part in parts]
        self._joined = torch.cat(parts, dim=1) if parts else None

    def gather(self, task_ids_B: Tensor) -> Tables:
        """As `Tables.gather`; all tables but pooling are views of one tensor."""
        pooling = None if self._pooling is None else self._pooling[task_ids_B]
        if self._joined is None:
            return replace(self._shapes, pooling=pooling)
        parts = iter(torch.split(self._joined[task_ids_B], self._sizes, dim=1))
        return replace(self._shapes.map(lambda table: next(parts).view(-1, *table.shape[1:])), pooling=pooling)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, each followed by a residual connection and a layer norm."""

    def __init__(self, config: NetworkConfig, index: int) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        self.num_heads = config.num_heads
        self.attention_dropout = config.attention_dropout
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.attention_output = nn.Linear(size, size)
        self.attention_norm = _layer_norm(config, index in config.conditional_layer_norm)
        self.expand = nn.Linear(size, inner)
        self.contract = nn.Linear(inner, size)
        self.output_norm = _layer_norm(config, index in config.conditional_layer_norm)
        self.dropout = Dropout(config.dropout)
        self.attention_bias = (
            ConditionalAttentionBias(
                config.task_vector_size, config.max_length, config.attention_block_width, config.film_rank
            )
            if index in config.conditional_attention
            else None
        )
        self.bottleneck = _bottleneck(config) if index in config.conditional_bottleneck else None

    def tables(self, task_TE: Tensor) -> LayerTables:
        """This layer's conditioning for all tasks."""
        bottleneck_norm = None if self.bottleneck is None else self.bottleneck.norm
        return LayerTables(
            attention_norm=self.attention_norm.table(task_TE),
            bottleneck=None if self.bottleneck is None else self.bottleneck.table(task_TE),
            output_norm=self.output_norm.table(task_TE),
            bottleneck_norm=None if bottleneck_norm is None else bottleneck_norm.table(task_TE),
        )

    def forward(self, states_BLD: Tensor, mask_BHLL: Tensor, constants: LayerTables) -> Tensor:
        """`mask_BHLL` is added to attention scores: -inf at padding, else the bias. Axes before the last may be 1."""
        attended = self.dropout(self._attend(states_BLD, mask_BHLL))
        attended = self.attention_norm(states_BLD + attended, constants.attention_norm)
        inner = functional.gelu(self.expand(attended))
        states = self.output_norm(attended + self.dropout(self.contract(inner)), constants.output_norm)
        if self.bottleneck is None or self.bottleneck.form is BottleneckForm.LADDER:
            return cast(Tensor, states)
        narrowed = self.bottleneck(states, constants.bottleneck)
        if self.bottleneck.norm is None:
            return cast(Tensor, states + narrowed)
        return cast(Tensor, self.bottleneck.norm(narrowed + attended, constants.bottleneck_norm))

    def _attend(self, states_BLD: Tensor, mask_BHLL: Tensor) -> Tensor:
        def heads(projected_BLD: Tensor) -> Tensor:
            return projected_BLD.view(*projected_BLD.shape[:2], self.num_heads, -1).transpose(1, 2)

        query = heads(self.query(states_BLD))
        dropout = self.attention_dropout if self.training else 0.0
        attended_BHLd = attend(query, heads(self.key(states_BLD)), heads(self.value(states_BLD)), mask_BHLL, dropout)
        return cast(Tensor, self.attention_output(attended_BHLd.transpose(1, 2).flatten(2)))


class Encoder(nn.Module):
    """From token ids to token states, with each row conditioned on its own task."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.alignment = (
            FiLM(config.task_vector_size, config.hidden_size, config.film_rank)
            if config.conditional_alignment
            else None
        )
        self.alignment_matrix = (
            AlignmentMatrix(config.hidden_size)
            if config.conditional_alignment and config.alignment_form is AlignmentForm.MATRIX
            else None
        )
        self.attention_block_width = config.attention_block_width
        self.layers = nn.ModuleList(EncoderLayer(config, index) for index in range(config.num_layers))

    def tables(self, raw_TE: Tensor, transformed_TE: Tensor) -> Tables:
        """The task tables. The alignment reads the raw task vectors, the layers read the transformed ones."""
        alignment = None if self.alignment is None else self.alignment(raw_TE)
        biases = [bias for layer in self.layers if (bias := cast(EncoderLayer, layer).attention_bias) is not None]
        layers = (cast(EncoderLayer, layer).tables(transformed_TE) for layer in self.layers)
        return Tables(
            alignment,
            attention=torch.stack([bias.table(transformed_TE) for bias in biases], dim=1) if biases else None,
            layers=tuple(layers),
            matrices=torch.stack([bias.blocks() for bias in biases]) if biases else None,
        )

    def forward(self, input_ids_BL: Tensor, segment_ids_BL: Tensor, is_token_BL: Tensor, constants: Tables) -> Tensor:
        """Token states [B, L, D]. `constants` holds the gathered constants of each row."""
        states = self.embeddings(input_ids_BL, segment_ids_BL)
        if constants.alignment is not None:
            align = modulate if self.alignment_matrix is None else self.alignment_matrix
            states = align(states, constants.alignment)
        padding = torch.zeros_like(is_token_BL, dtype=states.dtype).masked_fill(~is_token_BL, float("-inf"))
        masks = self._masks(padding, constants)
        ladder = None
        for layer, mask, layer_constants in zip(self.layers, masks, constants.layers, strict=True):
            states = layer(states, mask, layer_constants)
            bottleneck = cast(EncoderLayer, layer).bottleneck
            if bottleneck is not None and bottleneck.form is BottleneckForm.LADDER:
                ladder = bottleneck(states if ladder is None else states + ladder, layer_constants.bottleneck)
        return cast(Tensor, states if ladder is None else ladder)

    def _masks(self, padding_BL: Tensor, constants: Tables) -> Iterator[Tensor]:
        """Yields the mask that each layer adds to its attention scores, [B, 1 or H, L, L], one at a time."""
        length, distance = padding_BL.shape[1], self.embeddings.distance
        # Expanded over all queries, as ONNX Runtime's attention does not broadcast the mask.
        unbiased = padding_BL[:, None, None].expand(-1, -1, length, -1)
        biased: Iterator[Tensor] = iter(())
        if constants.attention is not None and constants.matrices is not None:
            biased = attention_masks(constants.matrices, constants.attention, padding_BL, self.attention_block_width)
        for layer in self.layers:
            mask = unbiased if cast(EncoderLayer, layer).attention_bias is None else next(biased)
            yield mask if distance is None else mask + distance(length)


def _layer_norm(config: NetworkConfig, conditional: bool) -> ConditionalLayerNorm:
    task_size = config.task_vector_size if conditional else None
    return ConditionalLayerNorm(
        config.hidden_size, config.layer_norm_eps, task_size, config.film_rank, config.layer_norm_form
    )


def _bottleneck(config: NetworkConfig) -> ConditionalBottleneck:
    form = config.bottleneck_form
    norm = _layer_norm(config, conditional=True) if form is BottleneckForm.ADAPTER else None
    sizes = (config.task_vector_size, config.hidden_size, config.bottleneck_size)
    return ConditionalBottleneck(*sizes, config.film_rank, form, norm)
