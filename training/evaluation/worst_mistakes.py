"""The worst mistakes of a task: the wrong answers it was surest of, for a person to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from polytask.model.answers import Answer, tagged_ranges
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import Example
from polytask.training.evaluation.metrics import score_answers

MOST = 10

_CHARACTERS = 300
_Mistake = tuple[float, float, Example, str, str]
"""How bad it is, the score to show, the example, the right answer and the given one."""


def worst_mistakes(task: Task, examples: Sequence[Example], answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """At most ten wrong answers, worst first: `input` (its texts, cut), `right`, `given` and `score`.

    Worst is what was answered with the highest probability; for regression what is furthest off, and there `score` is
    the distance. A span's mistake weighs less the more of the right answer it has (its F1).
    """
    found = list(_MISTAKES[task.kind](task, examples, answers))
    found.sort(key=lambda mistake: -mistake[0])
    return [
        {"input": _texts(example), "right": _cut(right), "given": _cut(given), "score": score}
        for _, score, example, right, given in found[:MOST]
    ]


def _texts(example: Example) -> list[str]:
    item = example.input
    return [_cut(text) for text in (item.text, item.text_pair) if text]


def _cut(text: str) -> str:
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1].rstrip() + "…"


def _classification(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Iterator[_Mistake]:
    for example, answer in zip(examples, answers, strict=True):
        right = task.labels[example.target]
        if answer.label != right:
            yield answer.score, answer.score, example, right, answer.label


def _multilabel(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Iterator[_Mistake]:
    """As sure of an answer as of its worst label: one given with a high, or left out with a low probability."""
    for example, answer in zip(examples, answers, strict=True):
        right = [label for label, has in zip(task.labels, example.target, strict=True) if has]
        given = [one.label for one in answer.labels]
        wrong = set(right) ^ set(given)
        if wrong:
            sure = max(answer.scores[label] if label in given else 1 - answer.scores[label] for label in wrong)
            yield sure, sure, example, ", ".join(right) or "none", ", ".join(given) or "none"


def _regression(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Iterator[_Mistake]:
    for example, answer in zip(examples, answers, strict=True):
        distance = abs(answer.value - example.target)
        if distance:
            yield distance, distance, example, f"{example.target:g}", f"{answer.value:g}"


def _ranking(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Iterator[_Mistake]:
    """An irrelevant candidate in the first place, although there is a relevant one."""
    for example, answer in zip(examples, answers, strict=True):
        first = answer.ranking[0]
        relevant = [one for one in answer.ranking if example.target[one.index]]
        if relevant and not example.target[first.index]:
            yield first.score, first.score, example, relevant[0].text, first.text


def _multiple_choice(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Iterator[_Mistake]:
    for example, answer in zip(examples, answers, strict=True):
        if answer.choice != example.target:
            score = answer.scores[answer.choice]
            yield score, score, example, example.input.candidates[example.target], answer.text


def _tagging(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Iterator[_Mistake]:
    """One for each entity that is not among the right ones as it stands."""
    for example, answer in zip(examples, answers, strict=True):
        tags = [task.labels[label] for label in example.target]
        runs = tagged_ranges(example.input.words or (), tags, bio=task.bio)
        for entity in answer.entities:
            if (entity.label, entity.start, entity.end) not in runs:
                touching = [one for one in runs if one[1] < entity.end and one[2] > entity.start]
                right = ", ".join(f"{example.input.text[start:end]} ({label})" for label, start, end in touching)
                yield entity.score, entity.score, example, right or "none", f"{entity.text} ({entity.label})"


def _span(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Iterator[_Mistake]:
    for example, answer in zip(examples, answers, strict=True):
        overlap = score_answers(task, [example], [answer])["f1"]
        if overlap < 1:
            right = (example.input.text_pair or "")[slice(*example.target[0])]
            yield answer.score * (1 - overlap), answer.score, example, right, answer.text


_MISTAKES: dict[Kind, Callable[[Task, Sequence[Example], Sequence[Any]], Iterator[_Mistake]]] = {
    Kind.CLASSIFICATION: _classification,
    Kind.MULTILABEL: _multilabel,
    Kind.REGRESSION: _regression,
    Kind.RANKING: _ranking,
    Kind.MULTIPLE_CHOICE: _multiple_choice,
    Kind.TAGGING: _tagging,
    Kind.SPAN: _span,
}
