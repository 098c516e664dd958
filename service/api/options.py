"""Options of a request, and the kinds of task to which each applies."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from polytask.model.answers import DEFAULT_OPTIONS, AnswerOptions
from polytask.model.tasks import Kind, Task
from polytask.model.truncation import Truncation
from polytask.model.window_merging import WindowScore
from polytask.service.errors import FieldError, InvalidInput

_KINDS = {
    "top_k": (Kind.CLASSIFICATION, Kind.MULTILABEL, Kind.RANKING),
    "raw_scores": tuple(kind for kind in Kind if kind is not Kind.REGRESSION),
    "thresholds": (Kind.MULTILABEL, Kind.SPAN),
    "min_confidence": (Kind.CLASSIFICATION,),
    "windows": (Kind.MULTILABEL, Kind.RANKING),
}
"""Kinds to which an option applies, if not to all; thresholds only to tasks that have some."""

_MAX_REPORTED = 20

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Options(BaseModel):
    """Options of a request. `null` means the default."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    top_k: int | None = Field(
        default=None,
        ge=1,
        description="number of most likely entries to keep: of `scores` (classification, multilabel) or of the ranking",
    )
    raw_scores: bool | None = Field(
        default=None,
        description="logits instead of probabilities, in the same fields: for an entity the mean over its words, for a "
        "span the sum of start and end. Not for regression, whose values are no probabilities",
    )
    truncation: Annotated[Truncation, Field(strict=False)] | None = Field(
        default=None,
        description="how texts that are too long are treated: `longest_first` (the default, also called `right`) cuts the "
        "end of the longer text until both fit; `left` cuts its beginning; `error` refuses the input; `window` reads "
        "the longer text in rows that overlap by a quarter, and makes one answer from them",
    )
    thresholds: dict[str, Probability] | None = Field(
        default=None,
        description="multilabel: the probability from which a label is given, instead of the task's own threshold; span, if "
        "questions may have no answer: that of `no_answer` from which the answer is empty",
    )
    min_confidence: Probability | None = Field(
        default=None,
        description="classification: the probability below which an answer's `label` is null, for none of these, instead of "
        "the task's own; 0 for always a label",
    )
    windows: Annotated[WindowScore, Field(strict=False)] | None = Field(
        default=None,
        description="with `truncation` `window`: what the rows over a text score together: `best`, the row that scores "
        "highest (default of rankings), or `mean` (default of multilabel)",
    )
    return_tokens: bool | None = Field(
        default=None, description="answers carry `read`: the tokens of each row with their characters in the input"
    )


def answer_options(options: Options | None, tasks: Sequence[Task]) -> list[AnswerOptions]:
    """The options of each task of a request. Raises InvalidInput for an option that applies to none of them."""
    if options is None:
        return [DEFAULT_OPTIONS] * len(tasks)
    errors = [
        FieldError(f"options.{name}", f"means nothing to {_names(tasks)}: it is for tasks of kind {', '.join(kinds)}")
        for name, kinds in _KINDS.items()
        if getattr(options, name) and not any(_applies(name, task) for task in tasks)
    ]
    if options.windows is not None and options.truncation is not Truncation.WINDOW:
        errors.append(FieldError("options.windows", "has an effect only with 'truncation': 'window'"))
    if errors:
        raise InvalidInput(errors)
    _require_known_labels(options.thresholds or {}, tasks)
    return [
        AnswerOptions(
            top_k=options.top_k,
            raw_scores=bool(options.raw_scores),
            windows=options.windows if _applies("windows", task) else None,
            thresholds=_thresholds(task, options.thresholds) if options.thresholds else None,
            min_confidence=options.min_confidence,
        )
        for task in tasks
    ]


def _applies(name: str, task: Task) -> bool:
    return bool(task.thresholds) if name == "thresholds" else task.kind in _KINDS[name]


def _require_known_labels(thresholds: dict[str, float], tasks: Sequence[Task]) -> None:
    labels = [name for task in tasks for name in task.threshold_names]
    unknown = [label for label in thresholds if label not in labels]
    if unknown:
        # Not all of them: the search for similar labels is slow.
        reported = unknown[:_MAX_REPORTED]
        raise InvalidInput(
            [FieldError(f"options.thresholds.{label[:80]}", _unknown_label(label, labels)) for label in reported]
        )


def _unknown_label(label: str, labels: Sequence[str]) -> str:
    close = difflib.get_close_matches(label[:80], labels, n=1)
    return f"is no label; did you mean {close[0]!r}?" if close else f"is no label; labels: {', '.join(labels)}"


def _thresholds(task: Task, requested: dict[str, float]) -> tuple[float, ...]:
    stored = zip(task.threshold_names, task.thresholds, strict=True)
    return tuple(requested.get(label, threshold) for label, threshold in stored)


def _names(tasks: Sequence[Task]) -> str:
    return " and ".join(f"{task.name!r} ({task.kind})" for task in tasks)
