"""Architecture: the recipe sections that say which layers of a backbone are frozen, and where it is conditioned."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from polytask.model.config import AlignmentForm, BottleneckForm, LayerNormForm, NetworkConfig, Pooling
from polytask.training.recipes.defaults import BACKBONE
from polytask.training.recipes.presets import Preset


class Section(pydantic.BaseModel):
    """A section of a recipe. Immutable; unknown keys are errors."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class LayerSet(StrEnum):
    """Layers of any backbone: all of them, its upper half, or its last."""

    ALL = "all"
    UPPER = "upper"
    LAST = "last"


class Start(StrEnum):
    """How a new network starts: equal to its backbone, or with random new weights, as in the released CA-MTL code."""

    IDENTITY = "identity"
    RANDOM = "random"


Layers = tuple[int, ...] | LayerSet
Share = Annotated[str, Field(pattern=r"^[0-9]+/[1-9][0-9]*$")]
"""A share of a size of the backbone, rounded down: "1/2"."""
Probability = Annotated[float, Field(ge=0, le=1)]


class BackboneConfig(Section):
    """The pretrained encoder: a Hugging Face name or a folder, and which part of it is frozen."""

    name: str = Field(
        default=BACKBONE,
        description="Hugging Face name, or a folder with config.json, tokenizer.json and model.safetensors",
    )
    pooling: Pooling = Field(
        default=Pooling.MEAN,
        description="state of a row: the mean of its token states, the pretrained pooler on the first one (`cls`), or the "
        "mean with a comparison of the row's two texts (`pairs`)",
    )
    max_length: int = Field(default=128, ge=8, description="most tokens in a row of any task")
    frozen_layers: Annotated[int, Field(ge=0)] | Share = Field(
        default=0, description="lowest layers whose published weights are not trained: their number, or a share of all"
    )
    frozen_embeddings: bool = Field(default=True, description="whether the embeddings are not trained either")
    fresh_layers: Layers = Field(default=(), description="layers that start without the published weights")
    dropout: Probability = Field(default=0.1, description="dropout of states in training")
    attention_dropout: Probability = Field(default=0.1, description="dropout of attention weights in training")

    def num_frozen(self, backbone: NetworkConfig) -> int:
        """Number of the backbone's lowest layers that are frozen."""
        return _part(self.frozen_layers, backbone.num_layers)

    def fresh(self, backbone: NetworkConfig) -> tuple[int, ...]:
        """The layers that do not get the published weights. Raises ValueError for one that the backbone does not have."""
        layers = named_layers(self.fresh_layers, backbone)
        if not set(layers) <= set(range(backbone.num_layers)):
            raise ValueError(f"fresh_layers {list(layers)} names a layer outside 0..{backbone.num_layers - 1}")
        return layers


class ConditioningConfig(Section):
    """The layers in which the conditional modules of CA-MTL are used, and their forms.

    `polytask.model.config` has the formulas of the forms.
    """

    preset: Preset | None = Field(
        default=None, description="published layout of CA-MTL, with its losses; keys of the recipe override it"
    )
    start: Start = Field(
        default=Start.IDENTITY,
        description="start of a new network: equal to its backbone, or with random new weights as in the code released "
        "with CA-MTL",
    )
    freeze_attention_film: bool = Field(
        default=False,
        description="whether in frozen layers the FiLM of the conditional attention is not trained either",
    )
    film_rank: int = Field(
        default=0,
        ge=0,
        description="rank of the projection of each FiLM; a low one makes conditional modules small; 0: full",
    )
    task_size: int = Field(
        default=0,
        ge=0,
        description="length of a task's vector; a short one makes all FiLMs cheaper; 0: the hidden size",
    )
    alignment: bool = Field(default=True, description="whether the task changes the embeddings")
    alignment_form: AlignmentForm = Field(
        default=AlignmentForm.FILM,
        description="how it does: by FiLM, as in the released code, or by a matrix, as in the paper",
    )
    alignment_layer: Annotated[int, Field(ge=0)] | Literal["upper"] = Field(
        default=0,
        description="the layer whose input it changes: its number, or the first one of the upper half. What is below the "
        "first conditioned layer is the same for all tasks and can be computed once; 0: the embeddings, as published",
    )
    attention: Layers = Field(default=(), description="layers with conditional attention")
    attention_blocks: Annotated[int, Field(ge=1)] | Literal["published"] = Field(
        default=1,
        description="number of diagonal blocks of the conditional attention bias; `published`: hidden size / `max_length` "
        "of the backbone",
    )
    layer_norm: Layers = Field(default=(), description="layers with conditional layer norm")
    layer_norm_form: LayerNormForm = Field(
        default=LayerNormForm.BOTH,
        description="how the task changes scale and shift: both, only the scale (released code), or as in the paper "
        "(`bias-in-scale`)",
    )
    bottleneck: Layers = Field(default=(), description="layers with a conditional bottleneck")
    bottleneck_size: Annotated[int, Field(ge=0)] | Share = Field(
        default=0, description="width of the bottlenecks: a number, or a share of the hidden size"
    )
    bottleneck_form: BottleneckForm = Field(
        default=BottleneckForm.RESIDUAL,
        description="how a bottleneck joins its layer: added to its output, or as in the released code for BERT-base "
        "(`adapter`) and BERT-large (`ladder`)",
    )
    pooling: bool = Field(
        default=False, description='whether the task weights the tokens of the mean; only with `pooling = "mean"`'
    )


def network_config(
    backbone: NetworkConfig, backbone_config: BackboneConfig, conditioning: ConditioningConfig
) -> NetworkConfig:
    """The backbone's sizes with a recipe's conditioning. Raises ValueError if they do not fit each other."""
    return replace(
        backbone,
        pooling=backbone_config.pooling,
        max_length=backbone_config.max_length,
        dropout=backbone_config.dropout,
        attention_dropout=backbone_config.attention_dropout,
        film_rank=conditioning.film_rank,
        task_size=conditioning.task_size,
        attention_blocks=_attention_blocks(
            conditioning.attention_blocks, backbone.hidden_size, backbone_config.max_length
        ),
        bottleneck_size=_part(conditioning.bottleneck_size, backbone.hidden_size),
        conditional_alignment=conditioning.alignment,
        conditional_attention=named_layers(conditioning.attention, backbone),
        conditional_layer_norm=named_layers(conditioning.layer_norm, backbone),
        conditional_bottleneck=named_layers(conditioning.bottleneck, backbone),
        conditional_pooling=conditioning.pooling,
        alignment_form=conditioning.alignment_form,
        alignment_layer=(
            named_layers(LayerSet.UPPER, backbone)[0]
            if conditioning.alignment_layer == "upper"
            else conditioning.alignment_layer
        ),
        layer_norm_form=conditioning.layer_norm_form,
        bottleneck_form=conditioning.bottleneck_form,
    )


def _attention_blocks(setting: int | Literal["published"], hidden_size: int, max_length: int) -> int:
    if setting != "published":
        return setting
    if hidden_size % max_length:
        raise ValueError(
            f'attention_blocks "published" is hidden size / max_length, but {hidden_size} / {max_length} is not whole; '
            "give another max_length in [backbone], or a number of blocks"
        )
    return hidden_size // max_length


def named_layers(named: Layers, backbone: NetworkConfig) -> tuple[int, ...]:
    """The layers of a backbone that a recipe names."""
    every = tuple(range(backbone.num_layers))
    match named:
        case LayerSet.ALL:
            return every
        case LayerSet.UPPER:
            return every[len(every) // 2 :]
        case LayerSet.LAST:
            return every[-1:]
        case _:
            return named


def _part(setting: int | str, whole: int) -> int:
    return setting if isinstance(setting, int) else int(Fraction(setting) * whole)
