"""Answers from logits: labels, values, rankings, choices, entities and spans, one dataclass per kind of task."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import SupportsFloat

import numpy as np
from numpy.typing import NDArray

from polytask.model.encoding import Encoding, Input
from polytask.model.tag_decoding import decode_tags
from polytask.model.tasks import Kind, Task
from polytask.model.window_merging import WindowScore, merge_windows
from polytask.model.words import Offsets

Logits = NDArray[np.float32]
"""Logits of one row: [num_outputs], or for a token-level task [length, num_outputs]."""

_DECIMALS = 6  # more digits would be noise, as a row's logits depend on its batch by rounding


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """Options of an answer.

    `top_k`: number of entries in a ranking and in the `scores` of classification and multilabel. `raw_scores`: logits
    instead of probabilities, for kinds that have them: for an entity the mean logit of its words' tags, for a span the
    sum of the logits of its start and end. `thresholds` and `min_confidence`: replace those of the task. `windows`: what
    windows over a text score together, in place of the default of the kind.
    """

    top_k: int | None = None
    raw_scores: bool = False
    thresholds: tuple[float, ...] | None = None
    min_confidence: float | None = None
    windows: WindowScore | None = None


DEFAULT_OPTIONS = AnswerOptions()


# The docstrings from here to `OptionalSpanAnswer` are the descriptions in /openapi.json.


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label and its probability."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class ClassificationAnswer:
    """The likeliest label, its probability, and the probability of every label, likeliest first.

    The label is null, for "none of these", where its probability is below the `min_confidence` of the task or the request.
    """

    label: str | None
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
class WordEntity(Entity):
    """An entity of an input of `tokens`: it also is `tokens[start_word:end_word]`, counted in given words."""

    start_word: int
    end_word: int


@dataclass(frozen=True, slots=True)
class TaggingAnswer:
    """Entities in text order; with plain (not BIO) tags, every word."""

    entities: tuple[Entity | WordEntity, ...]


@dataclass(frozen=True, slots=True)
class SpanAnswer:
    """The stretch of the context that answers best, `context[start:end]`, and its probability."""

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class OptionalSpanAnswer(SpanAnswer):
    """A span answer that is empty where the context has no answer, and the probability of that against the best stretch."""

    no_answer: float


Answer = (
    ClassificationAnswer
    | MultilabelAnswer
    | RegressionAnswer
    | RankingAnswer
    | MultipleChoiceAnswer
    | TaggingAnswer
    | SpanAnswer
    | OptionalSpanAnswer
)


def answer(
    task: Task,
    item: Input,
    encodings: Sequence[Encoding],
    logits: Sequence[Logits],
    options: AnswerOptions = DEFAULT_OPTIONS,
) -> Answer:
    """The answer to one input of `task` from the logits of its rows, in the order of `encodings`."""
    if len(encodings) > max(1, len(item.candidates)):
        encodings, logits = merge_windows(task, encodings, logits, options.windows)
    match task.kind:
        case Kind.CLASSIFICATION:
            return _classification(task, logits[0], options)
        case Kind.MULTILABEL:
            return _multilabel(task, logits[0], options)
        case Kind.REGRESSION:
            return _regression(task, logits[0])
        case Kind.RANKING:
            return _ranking(item, np.concatenate(logits), options)
        case Kind.MULTIPLE_CHOICE:
            return _choice(item, np.concatenate(logits), options)
        case Kind.TAGGING:
            return _tagging(task, item, encodings[0], logits[0], options)
        case Kind.SPAN:
            return _span(task, item, encodings[0], logits[0], options)


def softmax(logits: Logits, axis: int = -1) -> Logits:
    """Probabilities over an axis."""
    exponentials = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=axis, keepdims=True))


def sigmoid(logits: Logits) -> Logits:
    """Probabilities of independent outputs, without overflow."""
    return np.asarray((1 + np.tanh(logits / 2)) / 2)


def _classification(task: Task, logits: Logits, options: AnswerOptions) -> ClassificationAnswer:
    probabilities = softmax(logits)
    scores = _by_label(task, logits if options.raw_scores else probabilities, options.top_k)
    label = next(iter(scores))
    least = task.min_confidence if options.min_confidence is None else options.min_confidence
    # As an answer shows it: whoever compares the score with the limit finds the same.
    is_sure = least is None or _rounded(probabilities.max()) >= least
    return ClassificationAnswer(label if is_sure else None, scores[label], scores)


def _multilabel(task: Task, logits: Logits, options: AnswerOptions) -> MultilabelAnswer:
    probabilities = sigmoid(logits)
    thresholds = task.thresholds if options.thresholds is None else options.thresholds
    over = {task.labels[i] for i in np.flatnonzero(probabilities >= np.array(thresholds))}
    scores = _by_label(task, logits if options.raw_scores else probabilities)
    labels = tuple(LabelScore(label, scores[label]) for label in scores if label in over)
    # `top_k` limits the scores, not the labels.
    return MultilabelAnswer(labels, dict(list(scores.items())[: options.top_k]) if options.top_k else scores)


def _by_label(task: Task, scores: Logits, top_k: int | None = None) -> dict[str, float]:
    """The score of each label or of the `top_k` likeliest, likeliest first; ties in the task's order."""
    # As lists: reading single numbers from an array would cost more than everything else here.
    order, values = np.argsort(-scores, kind="stable")[:top_k].tolist(), scores.tolist()
    return {task.labels[i]: _rounded(values[i]) for i in order}


def _rounded(value: SupportsFloat) -> float:
    return round(float(value), _DECIMALS)


def _regression(task: Task, logits: Logits) -> RegressionAnswer:
    assert task.value_range is not None
    low, high = task.value_range
    # As many significant digits as a probability has, for any width of the range; rounding must not leave the range.
    decimals = _DECIMALS - math.floor(math.log10(high - low))
    value = float(logits[0]) if task.raw_output else low + (high - low) * float(sigmoid(logits)[0])
    return RegressionAnswer(min(high, max(low, round(value, decimals))))


def _ranking(item: Input, logits: Logits, options: AnswerOptions) -> RankingAnswer:
    scores = logits if options.raw_scores else sigmoid(logits)
    order = np.argsort(-logits, kind="stable")[: options.top_k]
    return RankingAnswer(tuple(RankedCandidate(int(i), item.candidates[i], _rounded(scores[i])) for i in order))


def _choice(item: Input, logits: Logits, options: AnswerOptions) -> MultipleChoiceAnswer:
    scores = logits if options.raw_scores else softmax(logits)
    choice = int(scores.argmax())
    return MultipleChoiceAnswer(choice, item.candidates[choice], tuple(map(_rounded, scores)))


def _tagging(task: Task, item: Input, encoding: Encoding, logits: Logits, options: AnswerOptions) -> TaggingAnswer:
    word_logits = (
        logits[list(encoding.positions)] if encoding.positions else np.zeros((0, len(task.labels)), np.float32)
    )
    scores = softmax(word_logits) if len(word_logits) else word_logits
    tags = decode_tags(task, word_logits)
    confidence = (word_logits if options.raw_scores else scores)[range(len(tags)), tags].tolist()
    entities: list[Entity] = []
    for label, first, stop in word_runs([task.labels[tag] for tag in tags], bio=task.bio):
        start, end = encoding.offsets[first][0], encoding.offsets[stop - 1][1]
        entity = (item.text[start:end], label, start, end, _rounded(fmean(confidence[first:stop])))
        if item.words is None:
            entities.append(Entity(*entity))
        else:
            # Not `first` and `stop`: words without a token, or in front of what was read, have no offsets.
            first_word, last_word = (bisect_left(item.words, encoding.offsets[index]) for index in (first, stop - 1))
            entities.append(WordEntity(*entity, first_word, last_word + 1))
    return TaggingAnswer(tuple(entities))


def word_runs(tags: Sequence[str], *, bio: bool) -> list[tuple[str, int, int]]:
    """Labelled runs of words: (label, first word, word after the last). With plain tags every word is a run.

    With BIO tags an `I-x` that does not continue an `x` starts a new run, as in conlleval.
    """
    if not bio:
        return [(tag, index, index + 1) for index, tag in enumerate(tags)]
    runs: list[tuple[str, int, int]] = []
    open_label = None
    for index, tag in enumerate(tags):
        label = None if tag == "O" else tag[2:]
        if label is not None and tag[0] == "I" and label == open_label:
            runs[-1] = (label, runs[-1][1], index + 1)
        elif label is not None:
            runs.append((label, index, index + 1))
        open_label = label
    return runs


def tagged_ranges(words: Offsets, tags: Sequence[str], *, bio: bool) -> list[tuple[str, int, int]]:
    """The runs of `word_runs` as character ranges, (label, start, end). `words`: the character range of each word."""
    return [(label, words[first][0], words[stop - 1][1]) for label, first, stop in word_runs(tags, bio=bio)]


def _span(task: Task, item: Input, encoding: Encoding, logits: Logits, options: AnswerOptions) -> SpanAnswer:
    assert item.text_pair is not None
    first_token = int(task.may_lack_answer)
    if len(encoding.positions) <= first_token:  # nothing of the context is left
        return OptionalSpanAnswer("", 0, 0, 1.0, 1.0) if task.may_lack_answer else SpanAnswer("", 0, 0, 0.0)
    token_logits = logits[list(encoding.positions)]
    scores = softmax(token_logits.T)
    first, last = _best_span(scores[:, first_token:], task.max_answer_tokens)
    first, last = first + first_token, last + first_token
    found = encoding.offsets[first][0], encoding.offsets[last][1]
    if not task.may_lack_answer:
        return SpanAnswer(*_stretch(item.text_pair, found), _span_score(scores, token_logits, first, last, options))
    # As in SQuAD 2.0 the sum of both logits of the start token against that of the best span.
    no_answer = _rounded(sigmoid(token_logits[0].sum() - token_logits[first, 0] - token_logits[last, 1]))
    (threshold,) = task.thresholds if options.thresholds is None else options.thresholds
    if no_answer >= threshold:
        first, last, found = 0, 0, (0, 0)
    score = _span_score(scores, token_logits, first, last, options)
    return OptionalSpanAnswer(*_stretch(item.text_pair, found), score, no_answer)


def _stretch(context: str, found: tuple[int, int]) -> tuple[str, int, int]:
    return context[slice(*found)], *found


def _span_score(scores: Logits, logits: Logits, first: int, last: int, options: AnswerOptions) -> float:
    return _rounded(logits[first, 0] + logits[last, 1] if options.raw_scores else scores[0, first] * scores[1, last])


def _best_span(scores: Logits, max_tokens: int | None) -> tuple[int, int]:
    """First and last token of the likeliest span of at most `max_tokens`. `scores`: [2, tokens], of start and end."""
    starts, ends = scores
    # For each end the likeliest start before it: all pairs of a long context would be too many.
    width = len(starts) if max_tokens is None else min(max_tokens, len(starts))
    last = int((_running_maximum(starts, width) * ends).argmax())
    earliest = max(0, last - width + 1)
    return earliest + int(starts[earliest : last + 1].argmax()), last


def _running_maximum(values: Logits, width: int) -> Logits:
    """The maximum of each value and the `width - 1` before it, in as many steps as `width` has binary digits."""
    maxima, covered = values.copy(), 1
    while covered < width:
        step = min(covered, width - covered)
        maxima[step:] = np.maximum(maxima[step:], maxima[:-step])
        covered += step
    return maxima
