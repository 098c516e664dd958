"""A training run as data: a TOML recipe, read once and frozen. Unknown keys are errors."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pydantic
from pydantic import Field

from model.config import NetworkConfig, Pooling
from model.tasks import NAME, Kind

Layers = tuple[int, ...]
Fraction = Annotated[float, Field(ge=0, le=1)]


class RecipeError(Exception):
    """A recipe that cannot be used; the message names the file and the key."""


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class BackboneConfig(_Section):
    """The pretrained encoder: a Hugging Face name or a folder, and how much of it stays fixed."""

    name: str
    pooling: Pooling = Pooling.MEAN
    max_length: int = Field(default=128, ge=8)
    frozen_layers: int = Field(default=0, ge=0)
    dropout: Fraction = 0.1
    attention_dropout: Fraction = 0.1


class ConditioningConfig(_Section):
    """Where the conditional modules of CA-MTL are switched on: layers counted from 0."""

    alignment: bool = True
    attention: Layers = ()
    attention_blocks: int = Field(default=1, ge=1)
    layer_norm: Layers = ()
    bottleneck: Layers = ()
    bottleneck_size: int = Field(default=0, ge=0)


class OptimizerConfig(_Section):
    """AdamW. `learning_rate` is the backbone's; heads and conditional modules learn at `added_learning_rate`."""

    learning_rate: float = Field(gt=0)
    added_learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: Fraction = 0.1
    clip_norm: float = Field(default=1.0, gt=0)


class SamplerName(StrEnum):
    """How the task of the next example is chosen."""

    PROPORTIONAL = "proportional"
    TEMPERATURE = "temperature"
    MT_UNCERTAINTY = "mt-uncertainty"


class SamplerConfig(_Section):
    """`temperature`: task t is drawn in proportion to min(its examples, cap) ** (1 / temperature)."""

    name: SamplerName = SamplerName.PROPORTIONAL
    temperature: float = Field(default=1.0, ge=1)
    cap: int = Field(default=2**31, ge=1)


class LengthConfig(_Section):
    """How long to train, and the size of a batch. `examples` counts examples drawn over the whole run."""

    examples: int = Field(ge=1)
    batch_rows: int = Field(default=32, ge=1)
    batch_tokens: int = Field(default=4096, ge=8)
    evaluate_every: int = Field(default=0, ge=0)
    bf16: bool = False


class ExampleConfig(_Section):
    """An input to show, and to test servers with. Its fields are those of the task's kind."""

    text: str
    text_pair: str | None = None
    candidates: tuple[str, ...] = ()


class TaskConfig(_Section):
    """One task: its kind, its files (relative to the data folder) and how to read them."""

    name: str = Field(pattern=f"^{NAME.pattern}$")
    kind: Kind
    train: str
    validation: str
    max_length: int = Field(default=128, ge=8)
    weight: float = Field(default=1.0, gt=0)
    labels: tuple[str, ...] = ()
    value_range: tuple[float, float] | None = None
    group_by: str = "group"
    positive: str | int = 1
    use_question: bool = True
    examples: tuple[ExampleConfig, ...] = ()
    source: str = ""
    licence: str = ""

    @pydantic.model_validator(mode="after")
    def _range_rises(self) -> TaskConfig:
        if self.value_range is not None:
            if self.kind is not Kind.REGRESSION:
                raise ValueError(f"value_range: only regression has one, not {self.kind}")
            if not self.value_range[0] < self.value_range[1]:
                raise ValueError(f"value_range: must rise, is {list(self.value_range)}")
        return self


class Recipe(_Section):
    """Everything that decides a training run, apart from where the data and the store lie."""

    name: str
    seed: int = 0
    backbone: BackboneConfig
    conditioning: ConditioningConfig = ConditioningConfig()
    optimizer: OptimizerConfig
    sampler: SamplerConfig = SamplerConfig()
    length: LengthConfig
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)

    def network(self, backbone: NetworkConfig) -> NetworkConfig:
        """The network's sizes: the backbone's, with this recipe's switches. Raises RecipeError if they do not fit."""
        switches = self.conditioning
        sizes = {name: getattr(backbone, name) for name in backbone.__dataclass_fields__}
        sizes |= {
            "pooling": self.backbone.pooling,
            "max_length": self.backbone.max_length,
            "dropout": self.backbone.dropout,
            "attention_dropout": self.backbone.attention_dropout,
            "attention_blocks": switches.attention_blocks,
            "bottleneck_size": switches.bottleneck_size,
            "conditional_alignment": switches.alignment,
            "conditional_attention": switches.attention,
            "conditional_layer_norm": switches.layer_norm,
            "conditional_bottleneck": switches.bottleneck,
        }
        try:
            return NetworkConfig(**sizes)
        except ValueError as error:
            raise RecipeError(f"recipe {self.name!r}: {error}") from error


def read_recipe(path: Path) -> tuple[Recipe, str]:
    """The recipe and its text. Raises RecipeError naming the file and each key that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
        return Recipe.model_validate(tomllib.loads(text)), text
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from error
    except pydantic.ValidationError as error:
        problems = "\n".join(f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"{path}:\n{problems}") from error
