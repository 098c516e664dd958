"""Recipe schema: a training run as a TOML file, parsed into immutable sections. Unknown keys are errors.

The descriptions of the keys are printed in `docs/recipes.md`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pydantic
from pydantic import Field
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from polytask.model.config import NetworkConfig
from polytask.model.tasks import LABELLED_KINDS, NAME, Kind
from polytask.model.words import WordSplit
from polytask.training.recipes.architecture import BackboneConfig, ConditioningConfig, network_config
from polytask.training.recipes.architecture import Section as _Section
from polytask.training.recipes.defaults import with_defaults
from polytask.training.recipes.presets import with_preset
from polytask.training.recipes.second_stage import SecondStageConfig
from polytask.training.recipes.teaching import TeachersConfig
from polytask.training.recipes.validation_errors import did_you_mean, error_details
from polytask.training.record_schemas import field_names

Fraction = Annotated[float, Field(ge=0, le=1)]


class RecipeError(Exception):
    """A recipe that cannot be used; the message names the file and the key."""


class OptimizerConfig(_Section):
    """AdamW, the learning rates, and the average of the weights."""

    learning_rate: float = Field(default=1e-4, gt=0, description="highest learning rate of the backbone's weights")
    added_learning_rate: float = Field(
        default=1e-3, gt=0, description="highest learning rate of all other weights: heads and conditional modules"
    )
    weight_decay: float = Field(default=0.01, ge=0, description="weight decay of AdamW, for matrices only")
    warmup: Fraction = Field(
        default=0.1, description="share of the run in which the learning rates rise; in the rest they fall to zero"
    )
    clip_norm: float = Field(
        default=1.0, gt=0, description="largest norm of a step's gradients; longer ones are scaled"
    )
    average: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay of the exponential moving average of the weights, which is evaluated and published; 0 for none",
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="factor of the backbone's learning rate from each layer to the one below it, the embeddings last, such as "
        "0.87: a gentler way to keep what lower layers know than `frozen_layers`",
    )


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
    """How the tasks of the next examples are chosen, and with MT-Uncertainty the examples themselves."""

    name: SamplerName = Field(
        default=SamplerName.PROPORTIONAL,
        description="how tasks are drawn: in proportion to their examples, uniformly, by `temperature`, from proportional "
        "towards uniform (`annealed`), by `temperature` times the network's uncertainty of a task (`task-uncertainty`), or "
        "example by example (`mt-uncertainty`)",
    )
    temperature: float = Field(
        default=1.0,
        ge=1,
        description="a task is drawn in proportion to min(its examples, `cap`) ** (1 / `temperature`)",
    )
    cap: int = Field(default=2**31, ge=1, description="number of examples beyond which a task is not drawn more often")
    min_passes: float = Field(
        default=0.0,
        ge=0,
        description="how often each example of a task is drawn at least, on average; a floor for small tasks",
    )
    max_passes: float | None = Field(
        default=None,
        gt=0,
        description="how often each example of a task is drawn at most, on average; by default there is no limit",
    )
    form: UncertaintyForm = Field(
        default=UncertaintyForm.PAPER,
        description="for `mt-uncertainty`: how examples of different tasks are compared, as in the paper or as in the code "
        "released with it",
    )
    regression: RegressionPolicy = Field(
        default=RegressionPolicy.SHARE,
        description="for `mt-uncertainty`: whether regression tasks, which have no entropy, keep their share of the "
        "examples (`share`) or get the median score of all others (`median`)",
    )
    horizon: int = Field(
        default=1, ge=1, description="for `mt-uncertainty`: number of batches that are selected at a time"
    )
    amortised: bool = Field(
        default=False,
        description="for `mt-uncertainty`: whether to select by cached scores, which saves most of its cost",
    )
    refresh: float = Field(
        default=0.5,
        ge=0,
        description="with `amortised`: number of cached scores that are renewed for each example trained on",
    )


class LengthConfig(_Section):
    """The length of the training, the size of a batch, and evaluations and checkpoints on the way.

    `polytask.training.loop.length` says how a run chooses its length itself.
    """

    examples: int | None = Field(
        default=None,
        ge=1,
        description="number of examples to draw, after which the run ends; without it and `passes` the run chooses its "
        "length by the sizes of its tasks",
    )
    passes: float | None = Field(
        default=None,
        gt=0,
        description="in place of `examples`: how often the examples of all tasks are drawn, on average",
    )
    minutes: float | None = Field(
        default=None,
        ge=0,
        description="most minutes of training, evaluations included; the learning rates fall to zero by then; 0: no limit; "
        "by default 10 if the run chooses its length, else no limit",
    )
    patience: int | None = Field(
        default=None,
        ge=0,
        description="number of tenths of the run without a better mean score on `selection` after which it ends; the best "
        "state is published; 0: the run goes to its end, and its last state is published; by default 4 if the run chooses "
        "its length, else 0",
    )
    batch_rows: int = Field(default=32, ge=1, description="most rows in a batch")
    batch_tokens: int = Field(default=4096, ge=8, description="most tokens in a batch, padding included")
    evaluate_every: int = Field(
        default=0,
        ge=0,
        description="number of drawn examples between evaluations on validation data; 0: only at the end",
    )
    checkpoint_every: int = Field(
        default=20_000,
        ge=0,
        description="number of drawn examples between checkpoints; 0: only at the end and when a signal stops the run",
    )
    bf16: bool | None = Field(
        default=None,
        description="whether the network computes in bfloat16; by default if some steps at the start are faster so",
    )
    tensorboard: bool = Field(default=True, description="whether events for TensorBoard are written")

    @pydantic.model_validator(mode="after")
    def _is_given_once(self) -> LengthConfig:
        if self.examples is not None and self.passes is not None:
            raise ValueError("passes: give `examples` or `passes`, not both")
        return self

    @property
    def is_chosen_by_run(self) -> bool:
        """Whether the run chooses its length itself."""
        return self.examples is None and self.passes is None


class ExampleConfig(_Section):
    """An input to show to users and to test servers with. It has the fields of the task's kind."""

    text: str = Field(description="the text; the query of a ranking, the question of a span task")
    text_pair: str | None = Field(default=None, description="the second text; the context of a span task")
    candidates: tuple[str, ...] = Field(
        default=(), description="the candidates of a ranking, the choices of a multiple choice"
    )


METRICS = {
    Kind.CLASSIFICATION: ("accuracy", "macro_f1", "matthews", "accuracy_macro_f1", "f1", "f1_accuracy"),
    Kind.MULTILABEL: ("macro_f1", "micro_f1"),
    Kind.REGRESSION: ("pearson_spearman", "pearson", "spearman"),
    Kind.RANKING: ("map", "mrr", "ndcg"),
    Kind.MULTIPLE_CHOICE: ("accuracy",),
    Kind.TAGGING: ("span_f1", "token_accuracy"),
    Kind.SPAN: ("f1", "exact_match"),
}
"""The metrics of each kind of task. The first is the main metric, unless the recipe names another.

The main metric of a ranking by grades is `ndcg`.
"""

_KINDS_OF_KEYS = {
    "balanced": {Kind.CLASSIFICATION},
    "positive_label": {Kind.CLASSIFICATION},
    "min_confidence": {Kind.CLASSIFICATION},
    "labels": LABELLED_KINDS,
    "value_range": {Kind.REGRESSION},
    "regression": {Kind.REGRESSION},
    "positive": {Kind.RANKING},
    "use_question": {Kind.MULTIPLE_CHOICE},
    "entities": {Kind.TAGGING},
    "words": {Kind.TAGGING},
    "word_shapes": {Kind.TAGGING},
    "max_answer_tokens": {Kind.SPAN},
}
"""The keys of a task that mean nothing in tasks of other kinds."""


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


class OnBadRow(StrEnum):
    """What is done with rows that cannot be trained on or measured: the run stops before it starts, or they are left out."""

    STOP = "stop"
    SKIP = "skip"


class TaskConfig(_Section):
    """One task: its kind, its files (relative to the data folder; see `polytask.training.data.files`) and how to read them."""

    name: str = Field(
        pattern=f"^{NAME.pattern}$",
        description="name of the task, of a-z, 0-9, - and _, also in the path of its requests",
    )
    kind: Kind = Field(description="what the task predicts; it decides the fields of records, inputs and answers")
    train: Annotated[
        tuple[str, ...],
        pydantic.BeforeValidator(_files),
        Field(min_length=1, description="one file to train on, or a list of files that are read one after the other"),
    ]
    validation: Annotated[
        dict[Annotated[str, Field(pattern=f"^{NAME.pattern}$")], str], pydantic.BeforeValidator(_splits)
    ] = Field(
        default_factory=dict,
        description='one file to measure on, or several by name, such as `{ web = "a.jsonl" }`; the main score is over the first',
    )
    holdout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="without `validation`: share of the training examples to measure on instead",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description='the files\' names of fields that have other names there, such as `{ text = "body" }`',
    )
    on_bad_row: OnBadRow = Field(
        default=OnBadRow.STOP,
        description="whether rows that are no valid records of the task stop the run before it starts, or are left out "
        "(`skip`, of a ranking with their whole query) and counted",
    )
    bad_row_limit: Fraction = Field(
        default=0.05, description="with `skip`: largest share of bad rows; more of them stop the run"
    )
    selection: Fraction = Field(
        default=0.1,
        description="share of the training examples, 1,000 at most, that no update sees: the best state, thresholds and "
        "the like are chosen on them; of fewer than 100 examples none",
    )
    cap: int | None = Field(
        default=None,
        ge=1,
        description="largest number of examples (rankings: queries) to train on, drawn with `cap_seed`",
    )
    cap_seed: int = Field(default=0, description="seed of the order of which `cap` takes the first")
    metric: str | None = Field(default=None, description="main metric; by default the first of the kind")
    positive_label: str | None = Field(
        default=None,
        description="of a classification: the label whose F1 is measured, for the metrics f1 and f1_accuracy",
    )
    min_confidence: Fraction | None = Field(
        default=None,
        description="of a classification: the probability below which an answer is none of the labels (`null`); by default "
        "it is always one. Metrics are of the likeliest label; the version's card shows what a limit costs and gains",
    )
    max_length: int = Field(
        default=128, ge=8, description="most tokens in a row of the task, not more than `max_length` of the backbone"
    )
    weight: float = Field(default=1.0, gt=0, description="factor of the task's losses")
    balanced: bool = Field(
        default=False,
        description="of a classification: whether losses of rare labels are weighted up, so that all labels weigh the same",
    )
    labels: tuple[str, ...] = Field(
        default=(), description="all labels in their order; by default those of the training records, sorted"
    )
    value_range: tuple[float, float] | None = Field(
        default=None,
        description="of a regression: smallest and largest value; by default those of the training records",
    )
    regression: RegressionLoss = Field(
        default=RegressionLoss.SCALED,
        description="of a regression: cross entropy of the value's place in its range (`place`), or squared error of the "
        "value (`mse`)",
    )
    max_answer_tokens: int | None = Field(
        default=None,
        ge=1,
        description="of a span task: most tokens of an answer; by default as many as the longest training answer has",
    )
    words: WordSplit | None = Field(
        default=None,
        description="of a tagging task: how raw text is split into words: `unicode`, `web`, `spaces` or `characters`; by "
        "default as agrees best with the training data",
    )
    word_shapes: bool | None = Field(
        default=None,
        description="of a tagging task: whether the network is told each word's shape (capitals, digits, signs); by default "
        "where the backbone has segments and its tokenizer takes capitals for small letters",
    )
    group_by: str = Field(
        default="group",
        description="field that records of one group share: the query of a ranking; in other tasks `holdout` keeps groups "
        "together",
    )
    positive: str | int = Field(
        default=1,
        description="of a ranking: the `label` of a candidate that answers the query. Without it, labels that are whole "
        "numbers from 0 to more than 1 are grades of relevance",
    )
    entities: bool | None = Field(
        default=None,
        description="of tagging: whether tags mark entities, or are plain labels of words; by default recognised from all tags",
    )
    use_question: bool = Field(
        default=True, description="of a multiple choice: whether the record's `question` is added to its `text`"
    )
    examples: tuple[ExampleConfig, ...] = Field(
        default=(), description="inputs to show to users and to test servers with, as tables of the keys below"
    )
    source: str = Field(default="", description="where the data are from; printed in the card of the version")
    licence: str = Field(default="", description="licence of the data; printed in the card of the version")

    @pydantic.model_validator(mode="after")
    def _keys_are_of_the_kind(self) -> TaskConfig:
        for key, kinds in _KINDS_OF_KEYS.items():
            if self.kind not in kinds and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: a key of {', '.join(sorted(kinds))} only, not of {self.kind}")
        return self

    @pydantic.model_validator(mode="after")
    def _range_rises(self) -> TaskConfig:
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
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
            question = did_you_mean(wrong[0], allowed)
            raise ValueError(
                f"columns: {wrong[0]!r} is no field of {self.kind}; there are {', '.join(allowed)}{question}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _metric_is_of_the_kind(self) -> TaskConfig:
        allowed = METRICS[self.kind]
        if self.metric is not None and self.metric not in allowed:
            question = did_you_mean(self.metric, allowed)
            raise ValueError(
                f"metric: {self.metric!r} is no metric of {self.kind}; there are {', '.join(allowed)}{question}"
            )
        if self.kind is Kind.CLASSIFICATION and self.metric in {"f1", "f1_accuracy"} and self.positive_label is None:
            raise ValueError(f"metric: {self.metric!r} needs positive_label, the label whose F1 it is")
        return self

    @property
    def measured_files(self) -> tuple[str, ...]:
        """The files of the validation examples."""
        return tuple(self.validation.values()) or self.train


class LossConfig(_Section):
    """How the losses of a batch's examples become one, and how they begin."""

    task_mean: bool = Field(
        default=False,
        description="whether the loss of a batch is the mean of its tasks' means, in place of the mean over its examples",
    )
    scaled: bool = Field(
        default=False,
        description="whether the losses of each task are divided by those of a network that knows nothing of it, such as "
        "log C with C labels, so that all tasks begin at about 1 and none rules the shared weights by its unit",
    )
    prior: bool = Field(
        default=True,
        description="whether the biases of the heads begin at the frequencies of the right answers in train, so that no "
        "update is spent on learning these",
    )


class Recipe(_Section):
    """Everything that determines a training run, except the folders of data and store."""

    name: str = Field(
        description="name of the checkpoint, of a-z, 0-9, - and _; its versions are NAME/1, NAME/2 and so on"
    )
    seed: int = Field(
        default=0, description="seed of all that is random in a run: new weights, dropout, the order of the examples"
    )
    backbone: BackboneConfig = BackboneConfig()
    conditioning: ConditioningConfig = ConditioningConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    sampler: SamplerConfig = SamplerConfig()
    losses: LossConfig = LossConfig()
    teachers: TeachersConfig = TeachersConfig()
    length: LengthConfig = LengthConfig()
    second_stage: SecondStageConfig | None = None
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)

    @pydantic.model_validator(mode="after")
    def _taught_tasks_are_there(self) -> Recipe:
        names = [task.name for task in self.tasks]
        for name in self.teachers.learning_rates:
            if name not in names:
                raise ValueError(f"teachers.learning_rates: there is no task {name!r}{did_you_mean(name, names)}")
        return self

    @pydantic.model_validator(mode="before")
    @classmethod
    def _complete(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        conditioning = fields.get("conditioning")
        has_preset = isinstance(conditioning, dict) and "preset" in conditioning
        return with_preset(fields) if has_preset else with_defaults(fields)

    @pydantic.model_validator(mode="after")
    def _second_stage_is_of_its_tasks(self) -> Recipe:
        names = [task.name for task in self.tasks]
        for name in () if self.second_stage is None else self.second_stage.tasks:
            if name not in names:
                raise ValueError(f"second_stage.tasks: there is no task {name!r}{did_you_mean(name, names)}")
        return self

    def network(self, backbone: NetworkConfig) -> NetworkConfig:
        """The network's sizes: the backbone's, with this recipe's conditioning. Raises RecipeError if they do not fit."""
        try:
            network = network_config(backbone, self.backbone, self.conditioning)
            if self.second_stage is not None:
                self.second_stage.check_layers(network)
        except ValueError as error:
            raise RecipeError(f"recipe {self.name!r}: {error}") from error
        return network


def read_recipe(path: Path) -> tuple[Recipe, str]:
    """The recipe and its text. Raises RecipeError naming the file and each key that is wrong."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return Recipe.model_validate(tomllib.loads(text)), text
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from error
    except pydantic.ValidationError as error:
        problems = "\n".join(f"  {_problem(detail)}" for detail in error_details(error))
        raise RecipeError(f"{path}:\n{problems}") from error


def _problem(detail: ErrorDetails) -> str:
    """What is wrong with a key of a recipe, with a suggestion for one that there is not."""
    message = detail["msg"]
    if detail["type"] == "extra_forbidden":
        section, name = _section_at(detail["loc"][:-1]), str(detail["loc"][-1])
        question = did_you_mean(name, section.model_fields)
        homes = [title for title, other in _sections(Recipe) if name in other.model_fields and other is not section]
        message = f"there is no such key{f'; it is a key of {homes[0]}' if homes else question}"
    return f"{'.'.join(map(str, detail['loc']))}: {message}"


def _section_at(location: tuple[str | int, ...]) -> type[_Section]:
    """The section of a recipe that the path leads to."""
    section: type[_Section] = Recipe
    for key in location:
        if isinstance(key, str) and key in section.model_fields:
            section = _section_of(section.model_fields[key]) or section
    return section


def _section_of(field: FieldInfo) -> type[_Section] | None:
    """The section that a key holds, once or in a list."""
    types = [field.annotation, *get_args(field.annotation)]
    return next((kind for kind in types if isinstance(kind, type) and issubclass(kind, _Section)), None)


def _sections(outer: type[_Section]) -> Iterator[tuple[str, type[_Section]]]:
    """The sections of a recipe with their headings."""
    for name, field in outer.model_fields.items():
        section = _section_of(field)
        if section is not None:
            yield (f"[[{name}]]" if get_origin(field.annotation) is tuple else f"[{name}]"), section
            yield from _sections(section)
