"""Architecture: the recipe sections that say which layers of a backbone are frozen, and where it is conditioned."""

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
    """The pretrained encoder: a Hugging Face name or a folder, and which part of it is frozen.

    `frozen_layers`: the number of lowest layers that are frozen, or a share of all layers. `frozen_embeddings`: whether
    the embeddings are frozen too. `fresh_layers`: layers that do not get the published weights.
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
        """Number of the backbone's lowest layers that are frozen."""
        return _part(self.frozen_layers, backbone.num_layers)

    def fresh(self, backbone: NetworkConfig) -> tuple[int, ...]:
        """The layers that do not get the published weights. Raises ValueError for one that the backbone does not have."""
        layers = _layers(self.fresh_layers, backbone)
        if not set(layers) <= set(range(backbone.num_layers)):
            raise ValueError(f"fresh_layers {list(layers)} names a layer outside 0..{backbone.num_layers - 1}")
        return layers


class ConditioningConfig(Section):
    """The layers in which the conditional modules of CA-MTL are used, and their forms. Layers count from 0, or are a set.

    `preset`: a published layout; keys in the recipe override it. `attention_blocks`: "published" is hidden size / longest
    row. `bottleneck_size`: a number, or a share of the hidden size. `freeze_attention_film`: in frozen layers the FiLM of
    the attention is not trained. The others are those of `polytask.model.config.NetworkConfig`.
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
        conditional_attention=_layers(conditioning.attention, backbone),
        conditional_layer_norm=_layers(conditioning.layer_norm, backbone),
        conditional_bottleneck=_layers(conditioning.bottleneck, backbone),
        conditional_pooling=conditioning.pooling,
        alignment_form=conditioning.alignment_form,
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


def _part(setting: int | str, whole: int) -> int:
    return setting if isinstance(setting, int) else int(Fraction(setting) * whole)
