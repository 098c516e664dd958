"""Answers of every kind, against a plain computation of their definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from polytask.model.answers import (
    Answer,
    AnswerOptions,
    ClassificationAnswer,
    Entity,
    LabelScore,
    Logits,
    MultilabelAnswer,
    MultipleChoiceAnswer,
    OptionalSpanAnswer,
    RankingAnswer,
    RegressionAnswer,
    SpanAnswer,
    TaggingAnswer,
    WordEntity,
    answer,
    sigmoid,
    softmax,
    word_runs,
)
from polytask.model.encoding import Encoding, Input, InputEncoder
from polytask.model.tag_decoding import decode_tags
from polytask.model.tasks import Kind, Task
from polytask.model.truncation import Truncation
from tests.support import tiny

LOGIT = st.floats(-10, 10, width=32)
LABELS = ("O", "B-x", "I-x", "B-y", "I-y")
TEXT = Input("text")
ROW = Encoding((1, 2), (0, 0))


def _logits(values: Sequence[float] | Sequence[Sequence[float]]) -> Logits:
    return np.array(values, dtype=np.float32)


def _exact_softmax(logits: Sequence[float]) -> list[float]:
    total = sum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / total for logit in logits]


def _exact_sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def _single(task: Task, logits: Sequence[float]) -> Answer:
    return answer(task, TEXT, [ROW], [_logits(logits)])


def _per_candidate(kind: Kind, logits: Sequence[float]) -> Answer:
    item = Input("query", candidates=tuple(f"candidate {index}" for index in range(len(logits))))
    rows = [_logits([logit]) for logit in logits]
    return answer(Task("task", kind, 32, pair=True), item, [ROW] * len(logits), rows)


@given(st.lists(LOGIT, min_size=1, max_size=6))
def test_softmax_and_sigmoid_are_their_definitions(logits: list[float]) -> None:
    """Probabilities equal the textbook formulas."""
    np.testing.assert_allclose(softmax(_logits(logits)), _exact_softmax(logits), rtol=1e-5)
    np.testing.assert_allclose(sigmoid(_logits(logits)), [_exact_sigmoid(logit) for logit in logits], atol=1e-6)


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=6))
def test_extreme_logits_stay_probabilities(logits: list[float]) -> None:
    """For logits of any size softmax sums to 1 and sigmoid lies between 0 and 1, without a warning."""
    assert softmax(_logits(logits)).sum() == pytest.approx(1, abs=1e-5)
    assert ((sigmoid(_logits(logits)) >= 0) & (sigmoid(_logits(logits)) <= 1)).all()


@given(st.lists(LOGIT, min_size=2, max_size=6))
def test_classification_names_the_likeliest_label(logits: list[float]) -> None:
    """The label has the largest logit, its score is its softmax, and all scores come likeliest first."""
    labels = tuple(f"label {index}" for index in range(len(logits)))
    given_answer = cast(ClassificationAnswer, _single(Task("task", Kind.CLASSIFICATION, 32, labels=labels), logits))
    assert [given_answer.scores[label] for label in labels] == pytest.approx(_exact_softmax(logits), rel=1e-5, abs=1e-6)
    assert list(given_answer.scores.values()) == sorted(given_answer.scores.values(), reverse=True)
    assert given_answer.score == max(given_answer.scores.values()) == given_answer.scores[str(given_answer.label)]


def test_a_tie_between_labels_goes_to_the_first() -> None:
    """Among equally likely labels the first one of the task is given."""
    task = Task("task", Kind.CLASSIFICATION, 32, labels=("a", "b", "c"))
    assert cast(ClassificationAnswer, _single(task, [0.0, 1.0, 1.0])).label == "b"


@given(st.lists(st.tuples(LOGIT, st.floats(0, 1)), min_size=2, max_size=6))
def test_multilabel_gives_the_labels_over_their_thresholds(drawn: list[tuple[float, float]]) -> None:
    """The labels are those whose sigmoid reaches their threshold, likeliest first; the scores of all are given."""
    labels = tuple(f"label {index}" for index in range(len(drawn)))
    thresholds = tuple(threshold for _, threshold in drawn)
    task = Task("task", Kind.MULTILABEL, 32, labels=labels, thresholds=thresholds)
    given_answer = cast(MultilabelAnswer, _single(task, [logit for logit, _ in drawn]))
    exact = dict(zip(labels, (float(sigmoid(_logits([logit]))[0]) for logit, _ in drawn), strict=True))
    assert given_answer.scores == pytest.approx(exact, abs=2e-6)
    over = {label for label, threshold in zip(labels, thresholds, strict=True) if exact[label] >= threshold}
    assert {entry.label for entry in given_answer.labels} == over
    scores = [entry.score for entry in given_answer.labels]
    assert scores == sorted(scores, reverse=True)
    assert all(entry == LabelScore(entry.label, given_answer.scores[entry.label]) for entry in given_answer.labels)


def test_thresholds_are_reached_by_equality() -> None:
    """A probability equal to its threshold counts, one just below does not; none or all may count."""
    task = Task("task", Kind.MULTILABEL, 32, labels=("a", "b", "c"), thresholds=(0.5, 0.5, 0.0))
    assert [entry.label for entry in cast(MultilabelAnswer, _single(task, [0.0, -0.001, -9.0])).labels] == ["a", "c"]
    strict = Task("task", Kind.MULTILABEL, 32, labels=("a", "b"), thresholds=(0.9, 0.9))
    assert cast(MultilabelAnswer, _single(strict, [0.0, 0.0])).labels == ()


def test_a_tie_between_labels_over_the_threshold_keeps_their_order() -> None:
    """Equally likely labels come in the task's order."""
    task = Task("task", Kind.MULTILABEL, 32, labels=("a", "b", "c"), thresholds=(0.1, 0.1, 0.1))
    assert [entry.label for entry in cast(MultilabelAnswer, _single(task, [1.0, 2.0, 1.0])).labels] == ["b", "a", "c"]


@given(LOGIT, st.floats(-100, 100), st.floats(0.01, 100))
def test_regression_stretches_the_sigmoid_over_its_range(logit: float, low: float, width: float) -> None:
    """The value is low + (high - low) * sigmoid(logit)."""
    task = Task("task", Kind.REGRESSION, 32, value_range=(low, low + width))
    value = cast(RegressionAnswer, _single(task, [logit])).value
    assert value == pytest.approx(low + width * _exact_sigmoid(logit), abs=1e-5 * (abs(low) + width))


@pytest.mark.parametrize(("logit", "value"), [(-1e9, 0.0), (-0.1, 0.0), (3.25, 3.25), (5.5, 5.0), (1e9, 5.0)])
def test_a_raw_regression_is_its_output_within_the_range(logit: float, value: float) -> None:
    """With `raw_output` the answer is the output, or the nearer end of the range."""
    task = Task("t", Kind.REGRESSION, 32, value_range=(0.0, 5.0), raw_output=True)
    assert _single(task, [logit]) == RegressionAnswer(value)


@pytest.mark.parametrize(("logit", "value"), [(-1e9, -1.0), (0.0, 1.0), (1e9, 3.0)])
def test_regression_never_leaves_its_range(logit: float, value: float) -> None:
    """Extreme logits give the ends of the range, 0 its middle."""
    task = Task("task", Kind.REGRESSION, 32, value_range=(-1.0, 3.0))
    assert _single(task, [logit]) == RegressionAnswer(value)


@given(st.lists(LOGIT, min_size=1, max_size=6))
def test_ranking_puts_the_best_first(logits: list[float]) -> None:
    """Candidates come by falling logit, each with its index, its text and the sigmoid of its logit."""
    ranking = cast(RankingAnswer, _per_candidate(Kind.RANKING, logits)).ranking
    assert [entry.index for entry in ranking] == sorted(range(len(logits)), key=lambda index: -logits[index])
    for entry in ranking:
        assert entry.text == f"candidate {entry.index}"
        assert entry.score == pytest.approx(_exact_sigmoid(logits[entry.index]), abs=2e-6)


def test_saturated_scores_still_rank() -> None:
    """Candidates whose probabilities round to 1 are ordered by their logits, ties by the input's order."""
    ranking = cast(RankingAnswer, _per_candidate(Kind.RANKING, [40.0, 60.0, 50.0, 60.0])).ranking
    assert [entry.index for entry in ranking] == [1, 3, 2, 0]
    assert {entry.score for entry in ranking} == {1.0}


@given(st.lists(LOGIT, min_size=1, max_size=6))
def test_multiple_choice_weighs_candidates_against_each_other(logits: list[float]) -> None:
    """The choice is the first candidate with the largest logit; the scores are the softmax over the candidates, in order."""
    given_answer = cast(MultipleChoiceAnswer, _per_candidate(Kind.MULTIPLE_CHOICE, logits))
    assert given_answer.scores == pytest.approx(_exact_softmax(logits), rel=1e-5, abs=1e-6)
    assert given_answer.choice == int(np.argmax(softmax(_logits(logits))))
    assert given_answer.text == f"candidate {given_answer.choice}"


TAGS = st.lists(st.sampled_from(["O", *(f"{sign}-{label}" for sign in "BI" for label in ("x", "y", "a-b", "O"))]))


@given(TAGS)
def test_bio_runs_are_those_of_seqeval(tags: list[str]) -> None:
    """Runs of BIO tags, well-formed or not, are the entities that the metric counts."""
    expected = [(label, first, last + 1) for label, first, last in get_entities(tags)]
    assert word_runs(tags, bio=True) == expected


def test_a_label_without_a_name_is_the_only_difference_to_seqeval() -> None:
    """Seqeval calls an entity of the bare tags `B-` and `I-` "_", we call it ""; its words are the same."""
    tags = ["B-", "I-", "O", "I-"]
    assert word_runs(tags, bio=True) == [("", 0, 2), ("", 3, 4)]
    assert [tuple(entity) for entity in get_entities(tags)] == [("_", 0, 1), ("_", 3, 3)]


@pytest.mark.parametrize(
    ("tags", "runs"),
    [
        ("", []),
        ("O O", []),
        ("B-x I-x O B-x", [("x", 0, 2), ("x", 3, 4)]),
        ("B-x B-x", [("x", 0, 1), ("x", 1, 2)]),
        ("I-x I-x", [("x", 0, 2)]),
        ("B-x I-y I-y", [("x", 0, 1), ("y", 1, 3)]),
        ("B-x O I-x", [("x", 0, 1), ("x", 2, 3)]),
    ],
)
def test_bio_runs_of_known_tags(tags: str, runs: list[tuple[str, int, int]]) -> None:
    """`B` always starts a run; `I` continues a run of its label and otherwise starts one."""
    assert word_runs(tags.split(), bio=True) == runs


@given(st.lists(st.sampled_from(["noun", "verb", "O"])))
def test_plain_tags_are_a_run_for_each_word(tags: list[str]) -> None:
    """With plain tags every word is a run of its tag, `O` included."""
    assert word_runs(tags, bio=False) == [(tag, index, index + 1) for index, tag in enumerate(tags)]


def _tagged(task: Task, item: Input, positions: Sequence[int], logits: Logits) -> TaggingAnswer:
    assert item.words is not None
    length = len(logits)
    row = Encoding((1,) * length, (0,) * length, positions=tuple(positions), offsets=item.words[: len(positions)])
    return cast(TaggingAnswer, answer(task, item, [row], [logits]))


# In steps wide enough that float32 cannot make a tie of two different logits.
STEP = st.integers(-40, 40).map(lambda quarters: quarters / 4)


@given(st.lists(st.lists(STEP, min_size=5, max_size=5), min_size=1, max_size=8), st.integers(0, 2))
def test_entities_are_the_runs_of_the_words_tags(word_logits: list[list[float]], gap: int) -> None:
    """Only the logits at the words' positions count: entities are the runs of their decoded tags, scored by the mean."""
    item = Input.from_words([f"word{index}" for index in range(len(word_logits))])
    positions = [1 + index * (gap + 1) for index in range(len(word_logits))]
    logits = np.full((positions[-1] + 2, 5), np.nan, dtype=np.float32)
    logits[positions] = word_logits
    task = Task("task", Kind.TAGGING, 64, labels=LABELS)
    entities = _tagged(task, item, positions, logits).entities
    tags = decode_tags(task, _logits(word_logits))
    scores = [_exact_softmax(row)[tag] for row, tag in zip(word_logits, tags, strict=True)]
    runs = word_runs([LABELS[tag] for tag in tags], bio=True)
    assert item.words is not None
    assert len(entities) == len(runs)
    for entity, (label, first, stop) in zip(entities, runs, strict=True):
        assert (entity.label, entity.start, entity.end) == (label, item.words[first][0], item.words[stop - 1][1])
        assert entity.text == item.text[entity.start : entity.end]
        assert entity.score == pytest.approx(np.mean(scores[first:stop]), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("side", [Truncation.RIGHT, Truncation.LEFT])
def test_entities_of_given_words_name_them(side: Truncation) -> None:
    """Entities of given words have the indices of their words, also behind words without tokens or cut off; texts have none."""
    task = Task("task", Kind.TAGGING, 8, labels=LABELS)
    words = ["\u200b", "the", "cat", "\u200b", "sat", "in", "the", "cat", "sat"]
    item, tags = Input.from_words(words), [0, 1, 2, 0, 1, 0]
    (rows,) = InputEncoder(tiny.tokenizer()).encode(task, [item], side)
    logits = [np.eye(5, dtype=np.float32)[[0, *tags, 0][: len(rows[0])]] for _ in rows]
    found = cast(TaggingAnswer, answer(task, item, rows, logits)).entities
    assert found
    for entity in found:
        assert isinstance(entity, WordEntity)
        assert " ".join(words[entity.start_word : entity.end_word]) == entity.text
    text = Input("the cat sat in the cat")
    (rows,) = InputEncoder(tiny.tokenizer()).encode(task, [text])
    assert all(type(entity) is Entity for entity in cast(TaggingAnswer, answer(task, text, rows, logits)).entities)


def test_plain_tags_answer_for_every_word() -> None:
    """With plain tags every word is returned with its tag."""
    task = Task("task", Kind.TAGGING, 32, labels=("noun", "verb"))
    item = Input.from_words(["cats", "sleep"])
    entities = _tagged(task, item, (1, 2), _logits([[0, 0], [2, 0], [0, 2], [0, 0]])).entities
    assert [(entity.text, entity.label, entity.start, entity.end) for entity in entities] == [
        ("cats", "noun", 0, 4),
        ("sleep", "verb", 5, 10),
    ]


@pytest.mark.parametrize("words", [[], ["\u200b"]])
def test_no_words_are_no_entities(words: list[str]) -> None:
    """A text without words in the tokenizer's vocabulary has no entities."""
    item = Input.from_words(words)
    task = Task("task", Kind.TAGGING, 32, labels=LABELS)
    assert _tagged(task, item, (), _logits([[0.0] * 5] * 2)) == TaggingAnswer(())


SPAN = Task("task", Kind.SPAN, 64, pair=True)


def _span(
    start_logits: Sequence[float], end_logits: Sequence[float], task: Task = SPAN, **options: Any
) -> tuple[SpanAnswer, str]:
    """The answer for a context of one token a word, and that context; tokens outside the context have the largest logits.

    Of a task whose questions may have no answer the first logits are those of the start token.
    """
    skipped = int(task.may_lack_answer)
    num_words = len(start_logits) - skipped
    context = " ".join(f"w{index:02}" for index in range(num_words))
    offsets = ((0, 0),) * skipped + tuple((4 * index, 4 * index + 3) for index in range(num_words))
    positions = (0,) * skipped + tuple(range(3, 3 + num_words))
    row = Encoding((1,) * (num_words + 4), (0,) * (num_words + 4), positions=positions, offsets=offsets)
    logits = np.full((len(row), 2), 50, dtype=np.float32)
    if positions:
        logits[list(positions)] = np.array([start_logits, end_logits]).T
    found = answer(task, Input("question", context), [row], [logits], AnswerOptions(**options))
    return cast(SpanAnswer, found), context


@given(st.lists(st.tuples(LOGIT, LOGIT), min_size=1, max_size=45), st.none() | st.integers(1, 50))
def test_the_span_is_the_best_of_all(logits: list[tuple[float, float]], most: int | None) -> None:
    """No span of the context within the task's length has a larger product of start and end probability."""
    starts, ends = zip(*logits, strict=True)
    span, context = _span(starts, ends, replace(SPAN, max_answer_tokens=most))
    start_scores, end_scores = _exact_softmax(starts), _exact_softmax(ends)
    scores = {
        (first, last): start_scores[first] * end_scores[last]
        for first in range(len(logits))
        for last in range(first, min(first + (most or len(logits)), len(logits)))
    }
    assert span.score == pytest.approx(scores[span.start // 4, span.end // 4], rel=1e-4, abs=1e-6)
    assert span.score == pytest.approx(max(scores.values()), rel=1e-4, abs=1e-6)
    assert span.text == context[span.start : span.end]


@pytest.mark.parametrize(
    ("distance", "most", "found"), [(29, 30, True), (30, 30, False), (39, 30, False), (39, None, True)]
)
def test_the_task_bounds_the_tokens_of_a_span(distance: int, most: int | None, found: bool) -> None:
    """The best start and end make a span if it has at most the task's number of tokens; without one it has any length."""
    starts, ends = np.zeros(45), np.zeros(45)
    starts[2], ends[2 + distance] = 9, 9
    span, _ = _span(starts.tolist(), ends.tolist(), replace(SPAN, max_answer_tokens=most))
    assert ((span.start, span.end) == (8, 4 * (2 + distance) + 3)) is found


OPTIONAL = replace(SPAN, thresholds=(0.5,))


@given(st.lists(st.tuples(LOGIT, LOGIT), min_size=2, max_size=20), st.floats(0, 1))
def test_a_span_is_empty_where_no_answer_is_likely_enough(logits: list[tuple[float, float]], threshold: float) -> None:
    """The answer is empty exactly if the start token beats the best span by the threshold; otherwise it is that span."""
    starts, ends = zip(*logits, strict=True)
    found, _ = _span(starts, ends, OPTIONAL, thresholds=(threshold,))
    best, _ = _span(starts[1:], ends[1:])
    assert isinstance(found, OptionalSpanAnswer)
    pairs = [(i, j) for i in range(1, len(logits)) for j in range(i, len(logits))]
    margin = starts[0] + ends[0] - max(starts[i] + ends[j] for i, j in pairs)
    assert found.no_answer == pytest.approx(1 / (1 + math.exp(-margin)), abs=1e-5)
    is_empty = found.no_answer >= threshold
    assert (found.text, found.start, found.end) == (("", 0, 0) if is_empty else (best.text, best.start, best.end))


def test_the_score_of_an_optional_span_is_that_of_what_is_answered() -> None:
    """Start and end probability are over the start token and the context, and their product is that of the given answer."""
    probabilities = _exact_softmax((2, 1, 0)), _exact_softmax((2, 0, 1))
    empty, _ = _span((2, 1, 0), (2, 0, 1), OPTIONAL)
    assert empty.score == pytest.approx(probabilities[0][0] * probabilities[1][0], abs=1e-6)
    given_anyway, _ = _span((2, 1, 0), (2, 0, 1), OPTIONAL, thresholds=(1.0,))
    assert given_anyway.text == "w00 w01"
    assert given_anyway.score == pytest.approx(probabilities[0][1] * probabilities[1][2], abs=1e-6)
    assert _span((2, 1, 0), (2, 0, 1), OPTIONAL, raw_scores=True)[0].score == 4.0


def test_an_empty_context_has_no_answer_for_certain() -> None:
    """Where questions may have no answer, an empty context gives an empty answer with probability 1."""
    assert _span([1], [1], OPTIONAL)[0] == OptionalSpanAnswer("", 0, 0, 1.0, 1.0)


def test_a_span_does_not_end_before_it_starts() -> None:
    """If the likeliest end is before the likeliest start, the best ordered span is given."""
    span, _ = _span([0, 1, 5], [6, 1, 0])
    assert (span.text, span.start, span.end) == ("w00", 0, 3)


def test_a_tie_between_spans_goes_to_the_first_and_shortest() -> None:
    """Among equally likely spans the one that starts first and then ends first is given."""
    assert _span([0, 0, 0], [0, 0, 0])[0].text == "w00"
    assert _span([0, 1, 1], [0, 1, 1])[0].text == "w01"


def test_an_empty_context_has_no_answer() -> None:
    """A context without tokens gives an empty span with probability 0."""
    assert _span([], [])[0] == SpanAnswer("", 0, 0, 0.0)


def _with(task: Task, logits: Sequence[float], **options: Any) -> Answer:
    return answer(task, TEXT, [ROW], [_logits(logits)], AnswerOptions(**options))


MOOD = Task("task", Kind.CLASSIFICATION, 32, labels=("a", "b", "c"))
TOPICS = Task("task", Kind.MULTILABEL, 32, labels=("a", "b", "c"), thresholds=(0.9, 0.5, 0.1))


def test_only_the_likeliest_may_be_wanted() -> None:
    """`top_k` keeps the first entries of the scores; labels over their thresholds are all given."""
    assert _with(MOOD, [0, 2, 1], top_k=2) == ClassificationAnswer("b", 0.665241, {"b": 0.665241, "c": 0.244728})
    assert _with(MOOD, [0, 2, 1], top_k=9) == _single(MOOD, [0, 2, 1])
    labels = (LabelScore("b", 0.880797), LabelScore("c", 0.268941))
    assert _with(TOPICS, [2, 2, -1], top_k=1) == MultilabelAnswer(labels, {"a": 0.880797})
    item = Input("query", candidates=("x", "y", "z"))
    task = Task("task", Kind.RANKING, 32, pair=True)
    ranking = answer(task, item, [ROW] * 3, [_logits([value]) for value in (0, 2, 1)], AnswerOptions(top_k=2))
    assert [entry.text for entry in cast(RankingAnswer, ranking).ranking] == ["y", "z"]


@given(st.lists(LOGIT, min_size=3, max_size=3), st.floats(0, 1), st.booleans())
def test_below_its_confidence_an_answer_is_none_of_the_labels(
    logits: list[float], least: float, raw_scores: bool
) -> None:
    """The label is None exactly where the likeliest one's probability is below the limit; score and scores stay."""
    always = cast(ClassificationAnswer, _with(MOOD, logits, raw_scores=raw_scores))
    probability = cast(ClassificationAnswer, _single(MOOD, logits)).score
    expected = replace(always, label=always.label if probability >= least else None)
    assert _with(MOOD, logits, min_confidence=least, raw_scores=raw_scores) == expected
    task = replace(MOOD, min_confidence=least)
    assert _with(task, logits, raw_scores=raw_scores) == expected
    assert _with(task, logits, min_confidence=0.0, raw_scores=raw_scores) == always


def test_logits_may_be_wanted() -> None:
    """`raw_scores` replaces probabilities by logits and changes no decision, as thresholds apply to probabilities."""
    assert _with(MOOD, [0, 2, 1], raw_scores=True) == ClassificationAnswer("b", 2.0, {"b": 2.0, "c": 1.0, "a": 0.0})
    found = _with(TOPICS, [2, 2, -1], raw_scores=True)
    assert found == MultilabelAnswer((LabelScore("b", 2.0), LabelScore("c", -1.0)), {"a": 2.0, "b": 2.0, "c": -1.0})
    item, raw = Input("query", candidates=("x", "y")), AnswerOptions(raw_scores=True)
    logits = [_logits([-3]), _logits([4])]
    ranking = answer(Task("task", Kind.RANKING, 32, pair=True), item, [ROW] * 2, logits, raw)
    assert [entry.score for entry in cast(RankingAnswer, ranking).ranking] == [4, -3]
    choice = answer(Task("task", Kind.MULTIPLE_CHOICE, 32, pair=True), item, [ROW] * 2, logits, raw)
    assert choice == MultipleChoiceAnswer(1, "y", (-3.0, 4.0))
    span = Encoding((1,) * 3, (0,) * 3, positions=(1, 2), offsets=((0, 1), (2, 3)))
    found = answer(
        Task("task", Kind.SPAN, 32, pair=True), Input("q", "a b"), [span], [_logits([[0, 0], [3, 1], [1, 4]])], raw
    )
    assert found == SpanAnswer("a b", 0, 3, 7.0)
    tagging = Task("task", Kind.TAGGING, 32, labels=LABELS)
    found = answer(tagging, Input("a b"), [span], [_logits([[0] * 5, [0, 3, 0, 0, 0], [0, 0, 5, 0, 0]])], raw)
    (entity,) = cast(TaggingAnswer, found).entities
    assert (entity.text, entity.label, entity.score) == ("a b", "x", 4.0)


def test_thresholds_may_be_others() -> None:
    """`thresholds` of a request decide about the labels instead of the task's."""
    found = cast(MultilabelAnswer, _with(TOPICS, [2, 2, -1], thresholds=(0.5, 0.95, 0.5)))
    assert [entry.label for entry in found.labels] == ["a"]
