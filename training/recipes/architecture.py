"""Which layers of a backbone a recipe fixes and where it conditions them: two of its sections, fitted to the backbone."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from polytask.model.config import AlignmentForm, BottleneckForm, LayerNormForm, NetworkConfig, Pooling
from polytask.training.recipes.presets import Preset


class Section(pydantic.BaseModel):
    """A section of a recipe: read once and frozen, unknown keys are errors."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class LayerSet(StrEnum):
    """Layers of any backbone: all of them, its upper half, or its last."""

    ALL = "all"
    UPPER = "upper"
    LAST = "last"


class Start(StrEnum):
    """What a new network is: as its backbone was, or with new weights at random, as in the released CA-MTL code."""

    IDENTITY = "identity"
    RANDOM = "random"


Layers = tuple[int, ...] | LayerSet
Share = Annotated[str, Field(pattern=r"^[0-9]+/[1-9][0-9]*$")]
"""A share of a size of the backbone, rounded down: "1/2"."""
Probability = Annotated[float, Field(ge=0, le=1)]


class BackboneConfig(Section):
    """The pretrained encoder: a Hugging Face name or a folder, and how much of it stays fixed.

    `frozen_layers`: how many of the lowest, or a share of them; `frozen_embeddings`: whether what is below them is fixed
    as well. `fresh_layers`: those that take no published weights.
    """

    name: str
    pooling: Pooling = Pooling.MEAN
    max_length: int = Field(default=128, ge=8)
    frozen_layers: Annotated[int, Field(ge=0)] | Share = 0
    frozen_embeddings: bool = True
    fresh_layers: Layers = ()
    dropout: Probability = 0.1
    attention_dropout: Probability = 0.1

    def num_frozen(self, backbone: NetworkConfig) -> int:
        """How many of the backbone's lowest layers stay fixed."""
        return _part(self.frozen_layers, backbone.num_layers)

    def fresh(self, backbone: NetworkConfig) -> tuple[int, ...]:
        """The layers that take no published weights. Raises ValueError for one that the backbone does not have."""
        layers = _layers(self.fresh_layers, backbone)
        if not set(layers) <= set(range(backbone.num_layers)):
            raise ValueError(f"fresh_layers {list(layers)} names a layer outside 0..{backbone.num_layers - 1}")
        return layers


class ConditioningConfig(Section):
    """Where the conditional modules of CA-MTL are switched on, and in which form. Layers count from 0, or are a set.

    `preset`: a published layout, beneath the keys that the recipe gives itself. `attention_blocks`: "published" is
    hidden size / longest row. `bottleneck_size`: a number, or a share of the hidden size. `freeze_attention_film`: in
    frozen layers the FiLM of the attention stays as it starts. The others are those of `polytask.model.config.NetworkConfig`.
    """

    preset: Preset | None = None
    start: Start = Start.IDENTITY
    freeze_attention_film: bool = False
    film_rank: int = Field(default=0, ge=0)
    task_size: int = Field(default=0, ge=0)
    alignment: bool = True
    alignment_form: AlignmentForm = AlignmentForm.FILM
    attention: Layers = ()
    attention_blocks: Annotated[int, Field(ge=1)] | Literal["published"] = 1
    layer_norm: Layers = ()
    layer_norm_form: LayerNormForm = LayerNormForm.BOTH
    bottleneck: Layers = ()
    bottleneck_size: Annotated[int, Field(ge=0)] | Share = 0
    bottleneck_form: BottleneckForm = BottleneckForm.RESIDUAL
    pooling: bool = False


def network_config(backbone: NetworkConfig, kept: BackboneConfig, switches: ConditioningConfig) -> NetworkConfig:
    """The backbone's sizes with a recipe's switches. Raises ValueError if they do not fit each other."""
    return replace(
        backbone,
        pooling=kept.pooling,
        max_length=kept.max_length,
        dropout=kept.dropout,
        attention_dropout=kept.attention_dropout,
        film_rank=switches.film_rank,
        task_size=switches.task_size,
        attention_blocks=_attention_blocks(switches.attention_blocks, backbone.hidden_size, kept.max_length),
        bottleneck_size=_part(switches.bottleneck_size, backbone.hidden_size),
        conditional_alignment=switches.alignment,
        conditional_attention=_layers(switches.attention, backbone),
        conditional_layer_norm=_layers(switches.layer_norm, backbone),
        conditional_bottleneck=_layers(switches.bottleneck, backbone),
        conditional_pooling=switches.pooling,
        alignment_form=switches.alignment_form,
        layer_norm_form=switches.layer_norm_form,
        bottleneck_form=switches.bottleneck_form,
    )


def _attention_blocks(wanted: int | Literal["published"], hidden_size: int, max_length: int) -> int:
    if wanted != "published":
        return wanted
    if hidden_size % max_length:
        raise ValueError(
            f'attention_blocks "published" is hidden size / max_length, but {hidden_size} / {max_length} is not whole; '
            "give another max_length in [backbone], or a number of blocks"
        )
    return hidden_size // max_length


def _layers(named: Layers, backbone: NetworkConfig) -> tuple[int, ...]:
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


def _part(wanted: int | str, whole: int) -> int:
    return wanted if isinstance(wanted, int) else int(Fraction(wanted) * whole)
