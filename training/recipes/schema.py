"""A training run as data: a TOML recipe, read once and frozen. Unknown keys are errors."""

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
    """AdamW. `learning_rate` is the backbone's; heads and conditional modules learn at `added_learning_rate`.

    `average`: what an average of the weights keeps of itself at each update; it is what is evaluated and published.
    0: no average.
    """

    learning_rate: float = Field(gt=0)
    added_learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: Fraction = 0.1
    clip_norm: float = Field(default=1.0, gt=0)
    average: float = Field(default=0.0, ge=0, lt=1)


class SamplerName(StrEnum):
    """How the task of the next example is chosen."""

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
    """What stands for the uncertainty of a regression example, which has no entropy.

    Share: none; of the examples chosen, regression tasks get the share that they have of the candidates, at random.
    Median: the median score of all other candidates, so that they come neither first nor last.
    """

    SHARE = "share"
    MEDIAN = "median"


class SamplerConfig(_Section):
    """`temperature`: task t is drawn in proportion to min(its examples, cap) ** (1 / temperature), which
    task-uncertainty multiplies by the task's mean entropy.

    For MT-Uncertainty: `horizon` batches are chosen at a time; `amortised` chooses by kept scores and brings
    `refresh` of them up to date for every example that is trained on.
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
    """How long to train, the size of a batch, and what happens on the way.

    `examples` counts examples drawn over the whole run, and so do `evaluate_every` and `checkpoint_every`: 0 evaluates
    at the end only, and writes checkpoints only where a signal stops the run and at its end.
    """

    examples: int = Field(ge=1)
    batch_rows: int = Field(default=32, ge=1)
    batch_tokens: int = Field(default=4096, ge=8)
    evaluate_every: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=20_000, ge=0)
    bf16: bool = False
    tensorboard: bool = True


class ExampleConfig(_Section):
    """An input to show, and to test servers with. Its fields are those of the task's kind."""

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
"""What a task of each kind can be measured in. The first is the main metric, unless the recipe names another."""


def _files(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _splits(value: object) -> object:
    return {"validation": value} if isinstance(value, str) else value


class RegressionLoss(StrEnum):
    """What a regression's output is, and its loss.

    `place`: through a sigmoid the value's place in the range; binary cross entropy. `mse`: the value; squared error.
    """

    PLACE = "place"
    MSE = "mse"


class TaskConfig(_Section):
    """One task: its kind, its files (relative to the data folder; see `polytask.training.data.files`) and how to read them.

    `train`: one file or several, read one after the other. `validation`: one file, or several by name; the main score
    is over the first. Without any, `holdout` is the share of the training examples that is held out instead.
    `columns`: the file's name of a record's field, where it is another. `cap`: at most so many examples (rankings:
    queries) are trained on, the first in an order that `cap_seed` shuffles. `metric`: the main one, if not the kind's
    own (see METRICS). `positive_label`: the label whose F1 is measured. `balanced`: of a classification, the losses of
    rare labels weigh more, so that all labels weigh alike.
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
    regression: RegressionLoss = RegressionLoss.PLACE
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
        known = sorted(field_names(self.kind) | {self.group_by})
        wrong = [field for field in self.columns if field not in known]
        if wrong:
            raise ValueError(f"columns: {wrong[0]!r} is no field of {self.kind}; there are {', '.join(known)}")
        return self

    @pydantic.model_validator(mode="after")
    def _metric_is_of_the_kind(self) -> TaskConfig:
        known = METRICS[self.kind]
        if self.metric is not None and self.metric not in known:
            raise ValueError(f"metric: {self.metric!r} is no metric of {self.kind}; there are {', '.join(known)}")
        if self.kind is not Kind.CLASSIFICATION and self.balanced:
            raise ValueError(f"balanced: only classification has labels to balance, not {self.kind}")
        if self.kind is not Kind.CLASSIFICATION and self.positive_label is not None:
            raise ValueError(f"positive_label: only classification has one, not {self.kind}")
        if self.kind is Kind.CLASSIFICATION and self.metric in {"f1", "f1_accuracy"} and self.positive_label is None:
            raise ValueError(f"metric: {self.metric!r} needs positive_label, the label whose F1 it is")
        return self

    @property
    def measured_files(self) -> tuple[str, ...]:
        """The files that validation examples come from."""
        return tuple(self.validation.values()) or self.train


class LossConfig(_Section):
    """What the loss of a batch is: the mean over its examples, or with `task_mean` the mean of its tasks' means."""

    task_mean: bool = False


class Recipe(_Section):
    """Everything that decides a training run, apart from where the data and the store lie."""

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
        """The network's sizes: the backbone's, with this recipe's switches. Raises RecipeError if they do not fit."""
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
