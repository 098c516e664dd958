"""Worst mistakes of a task: the wrong answers with the highest scores, for people to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from polytask.model.answers import Answer, tagged_ranges
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import Example
from polytask.training.evaluation.metrics import likeliest_label, score_answers

MAX_MISTAKES = 10

_CHARACTERS = 300
_Mistake = tuple[float, float, Example, str, str]
"""Badness, the score to show, the example, the correct answer and the predicted one."""


def worst_mistakes(task: Task, examples: Sequence[Example], answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """At most ten wrong answers, worst first: `input` (its texts, shortened), `right`, `given` and `score`.

    The worst answer is the one with the highest probability; for regression the one with the largest error, and `score`
    is the error. The probability of a span is multiplied by 1 - F1, so overlap with the right answer makes it less bad.
    """
    mistakes = list(_MISTAKES[task.kind](task, examples, answers))
    mistakes.sort(key=lambda mistake: -mistake[0])
    return [
        {"input": _texts(example), "right": _shorten(correct), "given": _shorten(predicted), "score": score}
        for _, score, example, correct, predicted in mistakes[:MAX_MISTAKES]
    ]


def _texts(example: Example) -> list[str]:
    item = example.input
    return [_shorten(text) for text in (item.text, item.text_pair) if text]


def _shorten(text: str) -> str:
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1].rstrip() + "…"


def _classification(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Iterator[_Mistake]:
    for example, answer in zip(examples, answers, strict=True):
        correct = task.labels[example.target]
        predicted = likeliest_label(answer)
        if predicted != correct:
            yield answer.score, answer.score, example, correct, predicted


def _multilabel(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Iterator[_Mistake]:
    """Badness is that of the worst label: one given with a high, or left out with a low probability."""
    for example, answer in zip(examples, answers, strict=True):
        correct = [label for label, has in zip(task.labels, example.target, strict=True) if has]
        predicted = {label_score.label: label_score.score for label_score in answer.labels}
        wrong = predicted.keys() ^ set(correct)
        if wrong:
            confidence = max(predicted.get(label, 1 - answer.scores[label]) for label in wrong)
            yield confidence, confidence, example, ", ".join(correct) or "none", ", ".join(predicted) or "none"


def _regression(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Iterator[_Mistake]:
    for example, answer in zip(examples, answers, strict=True):
        distance = abs(answer.value - example.target)
        if distance:
            yield distance, distance, example, f"{example.target:g}", f"{answer.value:g}"


def _ranking(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Iterator[_Mistake]:
    """A mistake is an irrelevant candidate in first position although there is a relevant one."""
    for example, answer in zip(examples, answers, strict=True):
        first = answer.ranking[0]
        relevant = [candidate for candidate in answer.ranking if example.target[candidate.index]]
        if relevant and not example.target[first.index]:
            yield first.score, first.score, example, relevant[0].text, first.text


def _multiple_choice(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Iterator[_Mistake]:
    for example, answer in zip(examples, answers, strict=True):
        if answer.choice != example.target:
            score = answer.scores[answer.choice]
            yield score, score, example, example.input.candidates[example.target], answer.text


def _tagging(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Iterator[_Mistake]:
    """A mistake is an entity that differs in label or borders from every correct one."""
    for example, answer in zip(examples, answers, strict=True):
        tags = [task.labels[label] for label in example.target]
        spans = tagged_ranges(example.input.words or (), tags, bio=task.bio)
        for entity in answer.entities:
            if (entity.label, entity.start, entity.end) not in spans:
                touching = [span for span in spans if span[1] < entity.end and span[2] > entity.start]
                correct = ", ".join(f"{example.input.text[start:end]} ({label})" for label, start, end in touching)
                yield entity.score, entity.score, example, correct or "none", f"{entity.text} ({entity.label})"


def _span(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Iterator[_Mistake]:
    for example, answer in zip(examples, answers, strict=True):
        overlap = score_answers(task, [example], [answer])["f1"]
        if overlap < 1:
            correct = (example.input.text_pair or "")[slice(*example.target[0])] if example.target else "no answer"
            yield answer.score * (1 - overlap), answer.score, example, correct, answer.text or "no answer"


_MISTAKES: dict[Kind, Callable[[Task, Sequence[Example], Sequence[Any]], Iterator[_Mistake]]] = {
    Kind.CLASSIFICATION: _classification,
    Kind.MULTILABEL: _multilabel,
    Kind.REGRESSION: _regression,
    Kind.RANKING: _ranking,
    Kind.MULTIPLE_CHOICE: _multiple_choice,
    Kind.TAGGING: _tagging,
    Kind.SPAN: _span,
}
