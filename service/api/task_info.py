"""Task descriptions: everything that a client must know about a task to use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polytask.model.encoding import Input
from polytask.model.tasks import Kind, Task, answer_labels
from polytask.model_store.manifest import Manifest
from polytask.service.api.schemas import InputField, from_input, input_fields
from polytask.service.config.settings import Settings

_EXAMPLES = {
    Kind.TAGGING: Input("Marie Curie was born in Warsaw."),
    Kind.RANKING: Input("Who was born in Warsaw?", candidates=("Marie Curie was born there.", "It rains in Bern.")),
    Kind.MULTIPLE_CHOICE: Input("Ice that is warmed becomes", candidates=("water.", "stone.")),
    Kind.SPAN: Input("Where was Marie Curie born?", "Marie Curie was born in Warsaw in 1867."),
}
_TEXT = Input("Where is my new card?")
_PAIR = Input("A man plays the guitar.", "Somebody makes music.")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may hold. A row over `max_tokens` is truncated; over any other limit the request is refused."""

    max_tokens: int
    max_inputs: int
    max_candidates: int
    max_body_bytes: int
    max_deadline_s: float


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """One task: what goes in, what comes out, how good it is.

    `labels`: as in answers. `thresholds`: by label, for multilabel; `no_answer`, for span tasks whose questions may have
    no answer. `min_confidence`: for classification, the probability below which an answer's label is null, if there is one.
    `value_range`: for regression. `example`: a request body that works as it is. `metrics`, `baselines` and `references`:
    of the model, of the trivial baseline and of simple models by name, on validation.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    thresholds: dict[str, float] | None
    min_confidence: float | None
    value_range: tuple[float, float] | None
    input_fields: list[InputField]
    input_may_be_a_string: bool
    limits: Limits
    example: dict[str, Any]
    metrics: dict[str, float]
    baselines: dict[str, float]
    references: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class TaskList:
    """All tasks of the checkpoint that is served."""

    model: str
    tasks: list[TaskInfo]


def revision(manifest: Manifest) -> str:
    """Name and version of a checkpoint, as in `demo/1`."""
    return f"{manifest.name}/{manifest.version}"


def describe_tasks(manifest: Manifest, settings: Settings) -> dict[str, TaskInfo]:
    """The description of each task, by name."""
    return {task.name: _info(task, manifest, settings) for task in manifest.tasks}


def example_input(task: Task, manifest: Manifest) -> Input:
    """An input for the task: its first golden example, or a default for its kind."""
    golden = next((golden.input for golden in manifest.goldens if golden.task == task.name), None)
    return golden or _EXAMPLES.get(task.kind, _PAIR if task.pair else _TEXT)


def _info(task: Task, manifest: Manifest, settings: Settings) -> TaskInfo:
    return TaskInfo(
        name=task.name,
        kind=task.kind,
        labels=answer_labels(task),
        thresholds=dict(zip(task.threshold_names, task.thresholds, strict=True)) or None,
        min_confidence=task.min_confidence,
        value_range=task.value_range,
        input_fields=input_fields(task),
        input_may_be_a_string=not task.pair,
        limits=Limits(
            max_tokens=task.max_length,
            max_inputs=settings.max_inputs,
            max_candidates=settings.max_candidates,
            max_body_bytes=settings.max_body_bytes,
            max_deadline_s=settings.deadline_s,
        ),
        example={"inputs": [from_input(task, example_input(task, manifest))]},
        metrics=manifest.metrics.get(task.name, {}),
        baselines=manifest.baselines.get(task.name, {}),
        references={name: own[task.name] for name, own in manifest.references.items() if task.name in own},
    )
