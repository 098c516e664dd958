"""Answers of a service, one class per kind, read from JSON. Fields that a newer service adds are kept in `fields`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from polytask_client.errors import BadResponse, InvalidArgument, Problem, read_problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one input. An answer of an unknown kind has this class itself.

    `fields`: the answer's JSON object. `tokens`: number of tokens read. `dropped_tokens`: number that did not fit. Both
    are None if the service does not send them.
    """

    fields: Mapping[str, Any] = field(repr=False, compare=False)
    tokens: int | None = None
    dropped_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label and its probability."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class ClassificationAnswer(Answer):
    """The likeliest label, its probability, and the probabilities of all labels that the service sends.

    `label` is None, for "none of these", where its probability is below `min_confidence` of the task or the request.
    """

    label: str | None
    score: float
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class MultilabelAnswer(Answer):
    """The labels over their thresholds, and the probabilities of all labels that the service sends."""

    labels: tuple[LabelScore, ...]
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RegressionAnswer(Answer):
    """A value in the task's range."""

    value: float


@dataclass(frozen=True, slots=True)
class RankedCandidate:
    """A candidate, its index in the input, and the probability that it is relevant."""

    index: int
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class RankingAnswer(Answer):
    """The candidates, best first."""

    ranking: tuple[RankedCandidate, ...]


@dataclass(frozen=True, slots=True)
class MultipleChoiceAnswer(Answer):
    """The chosen candidate's index in the input, its text, and the probability of each candidate in input order."""

    choice: int
    text: str
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Entity:
    """A labelled part of the text, `text[start:end]`, and its probability.

    Of an input of `tokens` it also is `tokens[start_word:end_word]`; of a text both are None.
    """

    text: str
    label: str
    start: int
    end: int
    score: float
    start_word: int | None = None
    end_word: int | None = None


@dataclass(frozen=True, slots=True)
class TaggingAnswer(Answer):
    """Entities in text order."""

    entities: tuple[Entity, ...]


@dataclass(frozen=True, slots=True)
class SpanAnswer(Answer):
    """The part of the context that answers, `context[start:end]`, and its probability.

    `no_answer`: of a task whose questions may have no answer, the probability of that; the text is then empty.
    """

    text: str
    start: int
    end: int
    score: float
    no_answer: float | None = None


@dataclass(frozen=True, slots=True)
class Failed(Answer):
    """The problem of an input that has no answer, in place of the answer."""

    problem: Problem

    @classmethod
    def of(cls, problem: Problem) -> Failed:
        """The failure with the `fields` that a service would send."""
        return cls(problem, fields={"error": problem.to_json()})


_Kind = TypeVar("_Kind", bound=Answer)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer for each input, in order. `truncated`: indices of the inputs that were not read to their end."""

    task: str
    model: str
    answers: tuple[Answer, ...]
    truncated: tuple[int, ...]
    usage: Mapping[str, Any] | None
    fields: Mapping[str, Any] = field(repr=False, compare=False)

    def of(self, kind: type[_Kind]) -> tuple[_Kind, ...]:
        """The answers, typed as `kind`. Raises InvalidArgument if an answer has another kind."""
        return tuple(_require_kind(kind, answer, self.task, index) for index, answer in enumerate(self.answers))


@dataclass(frozen=True, slots=True)
class TasksPrediction:
    """The answers of several tasks to the same inputs, by task."""

    model: str
    results: Mapping[str, tuple[Answer, ...]]
    usage: Mapping[str, Any] | None
    fields: Mapping[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """Description of a task. `example`: a request body. `fields`: the whole JSON object."""

    name: str
    kind: str
    labels: tuple[str, ...]
    example: Mapping[str, Any]
    fields: Mapping[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class TaskList:
    """The tasks of the served model, by name."""

    model: str
    tasks: Mapping[str, TaskInfo]


def read_answer(fields: Mapping[str, Any]) -> Answer:
    """An answer from its JSON object, whose fields show the kind."""
    common: dict[str, Any] = {
        "fields": fields,
        "tokens": fields.get("tokens"),
        "dropped_tokens": fields.get("dropped_tokens"),
    }
    return next((read(fields, common) for name, read in _READERS.items() if name in fields), Answer(**common))


def read_prediction(fields: Mapping[str, Any], num_inputs: int) -> Prediction:
    """The response of one task. Raises BadResponse."""
    prediction = _parse(
        lambda: Prediction(
            task=fields["task"],
            model=fields["model"],
            answers=tuple(map(read_answer, fields["answers"])),
            truncated=tuple(fields.get("truncated", ())),
            usage=fields.get("usage"),
            fields=fields,
        )
    )
    return _check_count(prediction, prediction.answers, num_inputs)


def read_tasks_prediction(fields: Mapping[str, Any], num_inputs: int) -> TasksPrediction:
    """The response of several tasks. Raises BadResponse."""
    prediction = _parse(
        lambda: TasksPrediction(
            model=fields["model"],
            results={task: tuple(map(read_answer, result["answers"])) for task, result in fields["results"].items()},
            usage=fields.get("usage"),
            fields=fields,
        )
    )
    for answers in prediction.results.values():
        _check_count(prediction, answers, num_inputs)
    return prediction


def read_task_list(fields: Mapping[str, Any]) -> TaskList:
    """The response with the service's tasks. Raises BadResponse."""
    return _parse(
        lambda: TaskList(
            fields["model"],
            {
                task["name"]: TaskInfo(
                    task["name"], task["kind"], tuple(task.get("labels", ())), task.get("example", {}), task
                )
                for task in fields["tasks"]
            },
        )
    )


_Result = TypeVar("_Result")


def _parse(build: Callable[[], _Result]) -> _Result:
    try:
        return build()
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise BadResponse(f"the response is not what the API says: {type(error).__name__} {error}") from error


def _check_count(result: _Result, answers: Sequence[Answer], num_inputs: int) -> _Result:
    if len(answers) != num_inputs:
        raise BadResponse(f"{num_inputs} inputs were sent, {len(answers)} answers came back")
    return result


def _require_kind(kind: type[_Kind], answer: Answer, task: str, index: int) -> _Kind:
    if isinstance(answer, kind):
        return answer
    why = f": {answer.problem.detail}" if isinstance(answer, Failed) else ""
    raise InvalidArgument(f"answer {index} of {task!r} is a {type(answer).__name__}, not a {kind.__name__}{why}")


def _entity(fields: Mapping[str, Any]) -> Entity:
    where = fields["start"], fields["end"], fields["score"]
    return Entity(fields["text"], fields["label"], *where, fields.get("start_word"), fields.get("end_word"))


def _label_score(fields: Mapping[str, Any]) -> LabelScore:
    return LabelScore(fields["label"], fields["score"])


def _ranked_candidate(fields: Mapping[str, Any]) -> RankedCandidate:
    return RankedCandidate(fields["index"], fields["text"], fields["score"])


# By a field that only this kind has. An option may omit `scores`, so they are never required.
_READERS: dict[str, Callable[[Mapping[str, Any], dict[str, Any]], Answer]] = {
    "error": lambda fields, common: Failed(read_problem(fields["error"]), **common),
    "labels": lambda fields, common: MultilabelAnswer(
        tuple(map(_label_score, fields["labels"])), fields.get("scores", {}), **common
    ),
    "label": lambda fields, common: ClassificationAnswer(
        fields["label"], fields["score"], fields.get("scores", {}), **common
    ),
    "value": lambda fields, common: RegressionAnswer(fields["value"], **common),
    "ranking": lambda fields, common: RankingAnswer(tuple(map(_ranked_candidate, fields["ranking"])), **common),
    "choice": lambda fields, common: MultipleChoiceAnswer(
        fields["choice"], fields["text"], tuple(fields.get("scores", ())), **common
    ),
    "entities": lambda fields, common: TaggingAnswer(tuple(map(_entity, fields["entities"])), **common),
    "start": lambda fields, common: SpanAnswer(
        fields["text"], fields["start"], fields["end"], fields["score"], fields.get("no_answer"), **common
    ),
}
