"""Recipe schema: a training run as a TOML file, parsed into immutable sections. Unknown keys are errors."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field

from polytask.model.config import NetworkConfig
from polytask.model.tasks import NAME, Kind
from polytask.training.recipes.architecture import BackboneConfig, ConditioningConfig, network_config
from polytask.training.recipes.architecture import Section as _Section
from polytask.training.recipes.presets import with_preset
from polytask.training.record_schemas import field_names

Fraction = Annotated[float, Field(ge=0, le=1)]


class RecipeError(Exception):
    """A recipe that cannot be used; the message names the file and the key."""


class OptimizerConfig(_Section):
    """AdamW. `learning_rate` is for the backbone, `added_learning_rate` for heads and conditional modules.

    `average`: decay of the exponential moving average of the weights. The averaged weights are evaluated and published;
    0 turns it off.
    """

    learning_rate: float = Field(gt=0)
    added_learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: Fraction = 0.1
    clip_norm: float = Field(default=1.0, gt=0)
    average: float = Field(default=0.0, ge=0, lt=1)


class SamplerName(StrEnum):
    """How the tasks of the next examples are chosen."""

    PROPORTIONAL = "proportional"
    UNIFORM = "uniform"
    TEMPERATURE = "temperature"
    ANNEALED = "annealed"
    MT_UNCERTAINTY = "mt-uncertainty"
    TASK_UNCERTAINTY = "task-uncertainty"


class UncertaintyForm(StrEnum):
    """How MT-Uncertainty compares examples of different tasks.

    With H the normalised entropy of an example and m_t its mean over the candidates of task t. Paper: U = H / max m,
    which keeps the order of H. Released code: U = H * m_t / max m, which favours hard tasks once more.
    """

    PAPER = "paper"
    RELEASED = "released"


class RegressionPolicy(StrEnum):
    """How MT-Uncertainty selects regression examples, which have no entropy.

    Share: at random; regression tasks get the same share of the selected examples as of the candidates. Median: with the
    median score of all other candidates, so that they come neither first nor last.
    """

    SHARE = "share"
    MEDIAN = "median"


class SamplerConfig(_Section):
    """`temperature`: task t is drawn in proportion to min(its examples, cap) ** (1 / temperature), which
    task-uncertainty multiplies by the task's mean entropy.

    For MT-Uncertainty: `horizon` batches are selected at a time. `amortised` selects by cached scores and renews
    `refresh` of them per example that is trained on.
    """

    name: SamplerName = SamplerName.PROPORTIONAL
    temperature: float = Field(default=1.0, ge=1)
    cap: int = Field(default=2**31, ge=1)
    form: UncertaintyForm = UncertaintyForm.PAPER
    regression: RegressionPolicy = RegressionPolicy.SHARE
    horizon: int = Field(default=1, ge=1)
    amortised: bool = False
    refresh: float = Field(default=0.5, ge=0)


class LengthConfig(_Section):
    """The length of the training, the size of a batch, and evaluations and checkpoints on the way.

    `examples`, `evaluate_every` and `checkpoint_every` are numbers of examples drawn. With 0 there are evaluations at the
    end only, and checkpoints only at the end and when a signal stops the run.
    """

    examples: int = Field(ge=1)
    batch_rows: int = Field(default=32, ge=1)
    batch_tokens: int = Field(default=4096, ge=8)
    evaluate_every: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=20_000, ge=0)
    bf16: bool = False
    tensorboard: bool = True


class ExampleConfig(_Section):
    """An input to show to users and to test servers with. It has the fields of the task's kind."""

    text: str
    text_pair: str | None = None
    candidates: tuple[str, ...] = ()


METRICS = {
    Kind.CLASSIFICATION: ("accuracy", "macro_f1", "matthews", "accuracy_macro_f1", "f1", "f1_accuracy"),
    Kind.MULTILABEL: ("macro_f1", "micro_f1"),
    Kind.REGRESSION: ("pearson_spearman", "pearson", "spearman"),
    Kind.RANKING: ("map", "mrr"),
    Kind.MULTIPLE_CHOICE: ("accuracy",),
    Kind.TAGGING: ("span_f1", "token_accuracy"),
    Kind.SPAN: ("f1", "exact_match"),
}
"""The metrics of each kind of task. The first is the main metric, unless the recipe names another."""


def _files(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _splits(value: object) -> object:
    return {"validation": value} if isinstance(value, str) else value


class RegressionLoss(StrEnum):
    """The output of a regression, and its loss.

    `place`: the output is a sigmoid, scaled to the range of the task; the loss is binary cross entropy. `mse`: the output
    is the value; the loss is the squared error.
    """

    SCALED = "place"
    MSE = "mse"


class TaskConfig(_Section):
    """One task: its kind, its files (relative to the data folder; see `polytask.training.data.files`) and how to read them.

    `train`: one file or several, read one after the other. `validation`: one file, or several by name; the main score
    is over the first. Without any, `holdout` is the share of the training examples that is held out instead.
    `columns`: the file's column of a record's field, if it has another name. `cap`: the largest number of examples
    (rankings: queries) to train on, the first in an order that `cap_seed` shuffles. `metric`: the main metric, if not
    the kind's first in METRICS. `positive_label`: the label whose F1 is measured. `balanced`: of a classification, the
    losses of rare labels are weighted up, so that all labels weigh the same.
    """

    name: str = Field(pattern=f"^{NAME.pattern}$")
    kind: Kind
    train: Annotated[tuple[str, ...], pydantic.BeforeValidator(_files), Field(min_length=1)]
    validation: Annotated[
        dict[Annotated[str, Field(pattern=f"^{NAME.pattern}$")], str], pydantic.BeforeValidator(_splits)
    ] = Field(default_factory=dict)
    holdout: float = Field(default=0.0, ge=0, lt=1)
    columns: dict[str, str] = Field(default_factory=dict)
    cap: int | None = Field(default=None, ge=1)
    cap_seed: int = 0
    metric: str | None = None
    positive_label: str | None = None
    max_length: int = Field(default=128, ge=8)
    weight: float = Field(default=1.0, gt=0)
    balanced: bool = False
    labels: tuple[str, ...] = ()
    value_range: tuple[float, float] | None = None
    regression: RegressionLoss = RegressionLoss.SCALED
    group_by: str = "group"
    positive: str | int = 1
    use_question: bool = True
    examples: tuple[ExampleConfig, ...] = ()
    source: str = ""
    licence: str = ""

    @pydantic.model_validator(mode="after")
    def _range_rises(self) -> TaskConfig:
        if self.regression is RegressionLoss.MSE and self.kind is not Kind.REGRESSION:
            raise ValueError(f"regression: only a regression has it, not {self.kind}")
        if self.value_range is not None:
            if self.kind is not Kind.REGRESSION:
                raise ValueError(f"value_range: only regression has one, not {self.kind}")
            if not self.value_range[0] < self.value_range[1]:
                raise ValueError(f"value_range: must rise, is {list(self.value_range)}")
        return self

    @pydantic.model_validator(mode="after")
    def _is_validated_on_something(self) -> TaskConfig:
        if bool(self.validation) == bool(self.holdout):
            raise ValueError("validation: name a file, or hold out a share of train (holdout = 0.1), not both")
        return self

    @pydantic.model_validator(mode="after")
    def _columns_are_of_fields(self) -> TaskConfig:
        allowed = sorted(field_names(self.kind) | {self.group_by})
        wrong = [field for field in self.columns if field not in allowed]
        if wrong:
            raise ValueError(f"columns: {wrong[0]!r} is no field of {self.kind}; there are {', '.join(allowed)}")
        return self

    @pydantic.model_validator(mode="after")
    def _metric_is_of_the_kind(self) -> TaskConfig:
        allowed = METRICS[self.kind]
        if self.metric is not None and self.metric not in allowed:
            raise ValueError(f"metric: {self.metric!r} is no metric of {self.kind}; there are {', '.join(allowed)}")
        if self.kind is not Kind.CLASSIFICATION and self.balanced:
            raise ValueError(f"balanced: only classification has labels to balance, not {self.kind}")
        if self.kind is not Kind.CLASSIFICATION and self.positive_label is not None:
            raise ValueError(f"positive_label: only classification has one, not {self.kind}")
        if self.kind is Kind.CLASSIFICATION and self.metric in {"f1", "f1_accuracy"} and self.positive_label is None:
            raise ValueError(f"metric: {self.metric!r} needs positive_label, the label whose F1 it is")
        return self

    @property
    def measured_files(self) -> tuple[str, ...]:
        """The files of the validation examples."""
        return tuple(self.validation.values()) or self.train


class LossConfig(_Section):
    """The loss of a batch: the mean over its examples, or with `task_mean` the mean of its tasks' means."""

    task_mean: bool = False


class Recipe(_Section):
    """Everything that determines a training run, except the folders of data and store."""

    name: str
    seed: int = 0
    backbone: BackboneConfig
    conditioning: ConditioningConfig = ConditioningConfig()
    optimizer: OptimizerConfig
    sampler: SamplerConfig = SamplerConfig()
    losses: LossConfig = LossConfig()
    length: LengthConfig
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _put_preset_beneath(cls, fields: Any) -> Any:
        return with_preset(fields) if isinstance(fields, dict) else fields

    def network(self, backbone: NetworkConfig) -> NetworkConfig:
        """The network's sizes: the backbone's, with this recipe's conditioning. Raises RecipeError if they do not fit."""
        try:
            return network_config(backbone, self.backbone, self.conditioning)
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
