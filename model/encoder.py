"""Encoder of the BERT family with conditional layers, and the task tables that condition it.

Shapes: B rows, L tokens, D hidden size, H heads, T tasks, E size of a task vector, M longest row,
N layers with an attention bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from polytask.model.config import AlignmentForm, BottleneckForm, NetworkConfig, Product
from polytask.model.embeddings import Embeddings
from polytask.model.kernels import Dropout, attend

Residual = tuple[Tensor, Tensor]
"""What a task adds to a product x W: x down up. `down`: [T, in, r]. `up`: [T, r, out]."""

Change = Callable[[str, Tensor], Tensor]
"""From a table and its name, as in `Tables.map_named`."""


@dataclass(frozen=True, slots=True)
class LayerTables:
    """Conditioning of one layer; None where a module is off. The first axis is the task or, once gathered, the row."""

    attention_norm: Tensor | None = None
    bottleneck: Tensor | None = None
    output_norm: Tensor | None = None
    bottleneck_norm: Tensor | None = None
    residuals: Mapping[Product, Residual] = field(default_factory=dict)

    def map_named(self, change: Change, prefix: str) -> LayerTables:
        """The same tables, each changed by `change`, which gets its name behind `prefix`."""
        residuals = {
            product: (change(f"{prefix}{product}_down", down), change(f"{prefix}{product}_up", up))
            for product, (down, up) in self.residuals.items()
        }
        return LayerTables(
            _changed(change, f"{prefix}attention_norm", self.attention_norm),
            _changed(change, f"{prefix}bottleneck", self.bottleneck),
            _changed(change, f"{prefix}output_norm", self.output_norm),
            _changed(change, f"{prefix}bottleneck_norm", self.bottleneck_norm),
            residuals,
        )


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

    def map_named(self, change: Change) -> Tables:
        """The same tables, each that has a task axis changed by `change`, which gets its name: `layer_3_output_norm`."""
        return Tables(
            _changed(change, "alignment", self.alignment),
            _changed(change, "attention", self.attention),
            tuple(layer.map_named(change, f"layer_{index}_") for index, layer in enumerate(self.layers)),
            _changed(change, "pooling", self.pooling),
            self.matrices,
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> Tables:
        """The same tables with `function` applied to each tensor that has a task axis."""
        return self.map_named(lambda _, table: function(table))

    def gather(self, task_ids_B: Tensor) -> Tables:
        """The constants of each row of a batch: one gather per table."""
        return self.map(lambda table: table[task_ids_B])


def _changed(change: Change, name: str, table: Tensor | None) -> Tensor | None:
    return None if table is None else change(name, table)


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
        attended = self.dropout(self._attend(states_BLD, mask_BHLL, constants))
        attended = self.attention_norm(states_BLD + attended, constants.attention_norm)
        inner = functional.gelu(self._product(Product.EXPAND, attended, constants))
        contracted = self.dropout(self._product(Product.CONTRACT, inner, constants))
        states = self.output_norm(attended + contracted, constants.output_norm)
        if self.bottleneck is None or self.bottleneck.form is BottleneckForm.LADDER:
            return cast(Tensor, states)
        narrowed = self.bottleneck(states, constants.bottleneck)
        if self.bottleneck.norm is None:
            return cast(Tensor, states + narrowed)
        return cast(Tensor, self.bottleneck.norm(narrowed + attended, constants.bottleneck_norm))

    def _attend(self, states_BLD: Tensor, mask_BHLL: Tensor, constants: LayerTables) -> Tensor:
        def heads(product: Product) -> Tensor:
            projected_BLD = self._product(product, states_BLD, constants)
            return projected_BLD.view(*projected_BLD.shape[:2], self.num_heads, -1).transpose(1, 2)

        dropout = self.attention_dropout if self.training else 0.0
        query, key, value = heads(Product.QUERY), heads(Product.KEY), heads(Product.VALUE)
        attended_BLD = attend(query, key, value, mask_BHLL, dropout).transpose(1, 2).flatten(2)
        return self._product(Product.ATTENTION_OUTPUT, attended_BLD, constants)

    def _product(self, product: Product, states: Tensor, constants: LayerTables) -> Tensor:
        """A product of the layer, with what the task of each row adds to it."""
        output = cast(Tensor, getattr(self, product)(states))
        residual = constants.residuals.get(product)
        if residual is None:
            return output
        down, up = residual
        return torch.baddbmm(output, states @ down, up)


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
        self.alignment_layer = config.alignment_layer
        self.first_conditioned_layer = config.first_conditioned_layer
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
        return self.upper(self.lower(input_ids_BL, segment_ids_BL, is_token_BL), is_token_BL, constants)

    def lower(self, input_ids_BL: Tensor, segment_ids_BL: Tensor, is_token_BL: Tensor) -> Tensor:
        """Token states [B, L, D] in front of the first conditioned layer: the same for all tasks."""
        states = self.embeddings(input_ids_BL, segment_ids_BL)
        layers = list(self.layers)[: self.first_conditioned_layer]
        for layer, mask in zip(layers, self._masks(layers, is_token_BL, states.dtype, None), strict=True):
            states = layer(states, mask, LayerTables())
        return cast(Tensor, states)

    def upper(self, states_BLD: Tensor, is_token_BL: Tensor, constants: Tables) -> Tensor:
        """Token states [B, L, D] from those of `lower`. `constants` holds the gathered constants of each row."""
        first, states, ladder = self.first_conditioned_layer, states_BLD, None
        layers = list(self.layers)[first:]
        masks = self._masks(layers, is_token_BL, states.dtype, constants)
        for index, (layer, mask) in enumerate(zip(layers, masks, strict=True), first):
            if constants.alignment is not None and index == self.alignment_layer:
                align = modulate if self.alignment_matrix is None else self.alignment_matrix
                states = align(states, constants.alignment)
            states = layer(states, mask, constants.layers[index])
            bottleneck = cast(EncoderLayer, layer).bottleneck
            if bottleneck is not None and bottleneck.form is BottleneckForm.LADDER:
                ladder = bottleneck(states if ladder is None else states + ladder, constants.layers[index].bottleneck)
        return cast(Tensor, states if ladder is None else ladder)

    def _masks(
        self, layers: Sequence[nn.Module], is_token_BL: Tensor, dtype: torch.dtype, constants: Tables | None
    ) -> Iterator[Tensor]:
        """Yields the mask that each layer adds to its attention scores, [B, 1 or H, L, L], one at a time."""
        padding_BL = torch.zeros_like(is_token_BL, dtype=dtype).masked_fill(~is_token_BL, float("-inf"))
        length, distance = padding_BL.shape[1], self.embeddings.distance
        # Expanded over all queries, as ONNX Runtime's attention does not broadcast the mask.
        unbiased = padding_BL[:, None, None].expand(-1, -1, length, -1)
        biased: Iterator[Tensor] = iter(())
        if constants is not None and constants.attention is not None and constants.matrices is not None:
            biased = attention_masks(constants.matrices, constants.attention, padding_BL, self.attention_block_width)
        for layer in layers:
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
