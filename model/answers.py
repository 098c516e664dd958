"""Logits to answers: labels, values, rankings, choices, entities and spans, one dataclass per kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
from numpy.typing import NDArray

from model.encoding import Encoding, Input, Offsets
from model.tasks import Kind, Task

Logits = NDArray[np.float32]
"""One row's own logits: [num_outputs], or for a token-level task [length, num_outputs]."""

_MAX_SPAN_TOKENS = 30
_DECIMALS = 6  # what a row shares with its batch is good for; more digits would only be noise on the wire


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label and its probability."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class ClassificationAnswer:
    """The likeliest label, its probability, and the probability of every label, likeliest first."""

    label: str
    score: float
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class MultilabelAnswer:
    """The labels whose probability reaches their threshold, and the probability of every label, both likeliest first."""

    labels: tuple[LabelScore, ...]
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class RegressionAnswer:
    """A value within the task's range."""

    value: float


@dataclass(frozen=True, slots=True)
class RankedCandidate:
    """A candidate, its place in the input, and the probability that it is relevant."""

    index: int
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class RankingAnswer:
    """All candidates, best first."""

    ranking: tuple[RankedCandidate, ...]


@dataclass(frozen=True, slots=True)
class MultipleChoiceAnswer:
    """The chosen candidate's place in the input, its text, and the probability of every choice in input order."""

    choice: int
    text: str
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Entity:
    """A labelled stretch of the text, `text[start:end]`, and the mean probability of its words' tags."""

    text: str
    label: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class TaggingAnswer:
    """Entities in text order; with plain (not BIO) tags, every word."""

    entities: tuple[Entity, ...]


@dataclass(frozen=True, slots=True)
class SpanAnswer:
    """The stretch of the context that answers best, `context[start:end]`, and its probability."""

    text: str
    start: int
    end: int
    score: float


Answer = (
    ClassificationAnswer
    | MultilabelAnswer
    | RegressionAnswer
    | RankingAnswer
    | MultipleChoiceAnswer
    | TaggingAnswer
    | SpanAnswer
)


def answer(task: Task, item: Input, encodings: Sequence[Encoding], logits: Sequence[Logits]) -> Answer:
    """The answer to one input of `task` from the logits of its rows, in the order of `encodings`."""
    match task.kind:
        case Kind.CLASSIFICATION:
            return _classification(task, logits[0])
        case Kind.MULTILABEL:
            return _multilabel(task, logits[0])
        case Kind.REGRESSION:
            return _regression(task, logits[0])
        case Kind.RANKING:
            return _ranking(item, logits)
        case Kind.MULTIPLE_CHOICE:
            scores = softmax(np.concatenate(logits))
            choice = int(scores.argmax())
            return MultipleChoiceAnswer(choice, item.candidates[choice], tuple(map(_rounded, scores)))
        case Kind.TAGGING:
            return _tagging(task, item, encodings[0], logits[0])
        case Kind.SPAN:
            return _span(item, encodings[0], logits[0])


def softmax(logits: Logits) -> Logits:
    """Probabilities over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def sigmoid(logits: Logits) -> Logits:
    """Probabilities of independent outputs, without overflow."""
    return np.asarray((1 + np.tanh(logits / 2)) / 2)


def _classification(task: Task, logits: Logits) -> ClassificationAnswer:
    scores = _by_label(task, softmax(logits))
    label = next(iter(scores))
    return ClassificationAnswer(label, scores[label], scores)


def _multilabel(task: Task, logits: Logits) -> MultilabelAnswer:
    probabilities = sigmoid(logits)
    scores = _by_label(task, probabilities)
    over = {task.labels[i] for i in np.flatnonzero(probabilities >= np.array(task.thresholds))}
    return MultilabelAnswer(tuple(LabelScore(label, scores[label]) for label in scores if label in over), scores)


def _by_label(task: Task, probabilities: Logits) -> dict[str, float]:
    """The probability of each label, likeliest first; equal ones in the task's order."""
    order = np.argsort(-probabilities, kind="stable")
    return {task.labels[i]: _rounded(probabilities[i]) for i in order}


def _rounded(value: SupportsFloat) -> float:
    return round(float(value), _DECIMALS)


def _regression(task: Task, logits: Logits) -> RegressionAnswer:
    assert task.value_range is not None
    low, high = task.value_range
    # As many digits as a probability has, whatever the width of the range; rounding must not leave it.
    decimals = _DECIMALS - math.floor(math.log10(high - low))
    value = float(logits[0]) if task.raw_output else low + (high - low) * float(sigmoid(logits)[0])
    return RegressionAnswer(min(high, max(low, round(value, decimals))))


def _ranking(item: Input, logits: Sequence[Logits]) -> RankingAnswer:
    scores = sigmoid(np.concatenate(logits))
    order = np.argsort(-np.concatenate(logits), kind="stable")
    return RankingAnswer(tuple(RankedCandidate(int(i), item.candidates[i], _rounded(scores[i])) for i in order))


def _tagging(task: Task, item: Input, encoding: Encoding, logits: Logits) -> TaggingAnswer:
    scores = softmax(logits[list(encoding.places)]) if encoding.places else np.zeros((0, len(task.labels)))
    tags = [task.labels[i] for i in scores.argmax(axis=-1)]
    confidence = scores.max(axis=-1)
    entities = []
    for label, first, stop in word_runs(tags, bio=task.bio):
        start, end = encoding.offsets[first][0], encoding.offsets[stop - 1][1]
        entities.append(Entity(item.text[start:end], label, start, end, _rounded(confidence[first:stop].mean())))
    return TaggingAnswer(tuple(entities))


def word_runs(tags: Sequence[str], *, bio: bool) -> list[tuple[str, int, int]]:
    """Labelled runs of words: (label, first word, word after the last). Plain tags: every word is a run.

    In BIO tags an `I-x` that does not continue an `x` starts a new run, as in conlleval.
    """
    if not bio:
        return [(tag, place, place + 1) for place, tag in enumerate(tags)]
    runs: list[tuple[str, int, int]] = []
    open_label = None
    for place, tag in enumerate(tags):
        label = None if tag == "O" else tag[2:]
        if label is not None and tag[0] == "I" and label == open_label:
            runs[-1] = (label, runs[-1][1], place + 1)
        elif label is not None:
            runs.append((label, place, place + 1))
        open_label = label
    return runs


def tagged_ranges(words: Offsets, tags: Sequence[str], *, bio: bool) -> list[tuple[str, int, int]]:
    """The runs of `word_runs` in characters, (label, start, end), given the character range of each word."""
    return [(label, words[first][0], words[stop - 1][1]) for label, first, stop in word_runs(tags, bio=bio)]


def _span(item: Input, encoding: Encoding, logits: Logits) -> SpanAnswer:
    assert item.text_pair is not None
    if not encoding.places:
        return SpanAnswer("", 0, 0, 0.0)
    scores = softmax(logits[list(encoding.places)].T)
    joint = np.triu(np.outer(scores[0], scores[1]))
    joint -= np.triu(joint, k=_MAX_SPAN_TOKENS)
    first, last = np.unravel_index(int(joint.argmax()), joint.shape)
    start, end = encoding.offsets[first][0], encoding.offsets[last][1]
    return SpanAnswer(item.text_pair[start:end], start, end, _rounded(joint[first, last]))
