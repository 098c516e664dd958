"""Metrics: right answers score 1, and every value agrees with its library or definition."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from seqeval.metrics import f1_score as entity_f1
from sklearn import metrics

from polytask.model.answers import (
    Answer,
    ClassificationAnswer,
    Entity,
    LabelScore,
    MultilabelAnswer,
    MultipleChoiceAnswer,
    OptionalSpanAnswer,
    RankedCandidate,
    RankingAnswer,
    RegressionAnswer,
    SpanAnswer,
    TaggingAnswer,
    word_runs,
)
from polytask.model.encoding import Input
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import Example, TaskData
from polytask.training.evaluation.metrics import score_answers, score_task, score_task_on_text, word_tags
from polytask.training.recipes.schema import METRICS, TaskConfig
from tests.support import tiny
from tests.training.conftest import Workshop

TASKS = {task.kind: task for task in tiny.tasks()}
MAIN = {
    Kind.CLASSIFICATION: "accuracy",
    Kind.MULTILABEL: "macro_f1",
    Kind.REGRESSION: "pearson_spearman",
    Kind.RANKING: "map",
    Kind.MULTIPLE_CHOICE: "accuracy",
    Kind.TAGGING: "span_f1",
    Kind.SPAN: "f1",
}


def _ranking(example: Example, order: Sequence[int]) -> RankingAnswer:
    return RankingAnswer(tuple(RankedCandidate(index, example.input.candidates[index], 0.5) for index in order))


def _tagging(example: Example, tags: Sequence[str], *, bio: bool = True) -> TaggingAnswer:
    words = example.input.words or ()
    ranges = [(label, words[first][0], words[stop - 1][1]) for label, first, stop in word_runs(tags, bio=bio)]
    return TaggingAnswer(tuple(Entity(example.input.text[s:e], label, s, e, 1.0) for label, s, e in ranges))


def _perfect(task: Task, example: Example) -> Answer:
    """The example's target as an answer."""
    item, target = example.input, example.target
    match task.kind:
        case Kind.CLASSIFICATION:
            return ClassificationAnswer(task.labels[target], 1.0, {})
        case Kind.MULTILABEL:
            return MultilabelAnswer(tuple(LabelScore(task.labels[i], 1.0) for i in np.flatnonzero(target)), {})
        case Kind.REGRESSION:
            return RegressionAnswer(target)
        case Kind.RANKING:
            return _ranking(example, sorted(range(len(target)), key=lambda index: -target[index]))
        case Kind.MULTIPLE_CHOICE:
            return MultipleChoiceAnswer(target, item.candidates[target], ())
        case Kind.TAGGING:
            return _tagging(example, [task.labels[label] for label in target])
        case Kind.SPAN:
            assert item.text_pair is not None
            start, end = target[-1]
            return SpanAnswer(item.text_pair[start:end], start, end, 1.0)


@pytest.mark.parametrize("kind", Kind)
def test_right_answers_score_one(workshop: Workshop, kind: Kind) -> None:
    """The targets themselves as answers give 1 in every metric of the kind, the main one first."""
    (task_data,) = [task_data for task_data in workshop.data if task_data.task.kind is kind]
    scores = score_answers(
        task_data.task, task_data.validation, [_perfect(task_data.task, example) for example in task_data.validation]
    )
    assert scores == pytest.approx(dict.fromkeys(scores, 1.0))
    assert next(iter(scores)) == MAIN[kind]


@pytest.mark.parametrize("kind", Kind)
def test_wrong_answers_score_less_than_one(workshop: Workshop, kind: Kind) -> None:
    """The answers of other examples score clearly less than 1 in every metric."""
    (task_data,) = [task_data for task_data in workshop.data if task_data.task.kind is kind]
    answers = [_perfect(task_data.task, example) for example in task_data.validation]
    if kind is Kind.RANKING:
        answers = [_ranking(e, sorted(range(3), key=lambda index: e.target[index])) for e in task_data.validation]
    elif kind is Kind.SPAN:
        answers = [SpanAnswer("the cat", 0, 7, 1.0)] * len(answers)
    else:
        answers = [answers[-1]] * len(answers)
    scores = score_answers(task_data.task, task_data.validation, answers)
    assert all(value < 0.9 for value in scores.values())


# Which metric is the main one

PAIRS = [(0, 0), (1, 1), (1, 2), (2, 1), (0, 1), (1, 1)]


def _classified(pairs: Sequence[tuple[int, int]]) -> tuple[list[Example], list[Answer]]:
    """Examples and answers from pairs of right and given label ids."""
    labels = TASKS[Kind.CLASSIFICATION].labels
    return [Example(Input("a"), right) for right, _ in pairs], [
        ClassificationAnswer(labels[given], 1.0, {}) for _, given in pairs
    ]


def test_none_of_the_labels_changes_no_metric() -> None:
    """Where an answer says none of the labels, the likeliest one is measured."""
    task = TASKS[Kind.CLASSIFICATION]
    examples, answers = _classified(PAIRS)
    unsure = [ClassificationAnswer(None, 0.4, {answer.label: 0.4}) for answer in answers]  # type: ignore[union-attr, dict-item]
    assert score_answers(task, examples, unsure) == score_answers(task, examples, answers)


@pytest.mark.parametrize("kind", Kind)
def test_every_metric_of_a_kind_can_be_the_main_one(workshop: Workshop, kind: Kind) -> None:
    """Each metric that a recipe may name is measured and comes first; the default is the kind's first."""
    (task_data,) = [task_data for task_data in workshop.data if task_data.task.kind is kind]
    answers = [_perfect(task_data.task, example) for example in task_data.validation]
    positive = task_data.task.labels[0] if kind is Kind.CLASSIFICATION else None
    assert METRICS[kind][0] == MAIN[kind]
    plain = score_answers(task_data.task, task_data.validation, answers, None, positive)
    assert set(plain) <= set(METRICS[kind])
    for metric in METRICS[kind]:
        scores = score_answers(task_data.task, task_data.validation, answers, metric, positive)
        assert next(iter(scores)) == metric
        assert {name: value for name, value in scores.items() if name in plain} == plain
        assert set(scores) == {*plain, metric}


def test_f1_is_that_of_the_positive_label() -> None:
    """F1 is that of the positive label alone, and its mean with accuracy is measured if it is the main metric."""
    task = TASKS[Kind.CLASSIFICATION]
    examples, answers = _classified(PAIRS)
    scores = score_answers(task, examples, answers, "f1_accuracy", task.labels[1])
    # Right twice out of four times given, and out of three times there.
    assert scores["f1"] == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))
    assert scores["f1_accuracy"] == pytest.approx((scores["f1"] + scores["accuracy"]) / 2)
    assert "f1" not in score_answers(task, examples, answers)
    assert score_answers(task, examples, answers, "f1", task.labels[1])["f1"] == scores["f1"]
    nothing = score_answers(task, *_classified([(0, 0), (2, 0)]), "f1", task.labels[1])
    assert nothing["f1"] == 0


def test_accuracy_and_macro_f1_have_a_mean() -> None:
    """The mean of accuracy and macro F1 is measured if it is the main metric."""
    scores = score_answers(TASKS[Kind.CLASSIFICATION], *_classified(PAIRS), "accuracy_macro_f1")
    assert scores["accuracy_macro_f1"] == pytest.approx((scores["accuracy"] + scores["macro_f1"]) / 2)


def _task_data(splits: dict[str, int], **config: Any) -> TaskData:
    task = TASKS[Kind.CLASSIFICATION]
    fields = {"name": task.name, "kind": task.kind, "train": "a.jsonl", "validation": "b.jsonl", **config}
    return TaskData(task, TaskConfig.model_validate(fields), (), tuple(_classified(PAIRS)[0]), splits)


def test_each_validation_split_is_measured() -> None:
    """Metrics of the first split have plain names, those of others `metric/split`, in the same order."""
    task, (examples, answers) = TASKS[Kind.CLASSIFICATION], _classified(PAIRS)
    choice: Any = {"metric": "f1", "positive_label": task.labels[1]}
    scores = score_task(_task_data({"in": 3, "out": 2, "far": 1}, **choice), answers)
    parts = {"": slice(0, 3), "/out": slice(3, 5), "/far": slice(5, 6)}
    expected = {
        f"{name}{split}": value
        for split, part in parts.items()
        for name, value in score_answers(task, examples[part], answers[part], **choice).items()
    }
    assert list(scores.items()) == list(expected.items())
    assert next(iter(scores)) == "f1"
    assert score_task(_task_data({"in": 6}), answers) == score_answers(task, examples, answers)


def test_every_example_needs_an_answer() -> None:
    """A number of answers that differs from the splits' sizes is an assertion error."""
    answers = _classified(PAIRS)[1]
    for splits, count in (({"in": 6}, 5), ({"in": 5}, 6)):
        with pytest.raises(AssertionError, match="an answer for every example"):
            score_task(_task_data(splits), answers[:count])


# Classification, multilabel, regression


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_classification_agrees_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    """Accuracy, macro F1 and Matthews are scikit-learn's on the label ids."""
    task = TASKS[Kind.CLASSIFICATION]
    examples = [Example(Input("a"), right) for right, _ in pairs]
    answers = [ClassificationAnswer(task.labels[given], 1.0, {}) for _, given in pairs]
    scores = score_answers(task, examples, answers)
    right, given = zip(*pairs, strict=True)
    assert scores["accuracy"] == pytest.approx(sum(r == g for r, g in pairs) / len(pairs))
    assert scores["macro_f1"] == pytest.approx(metrics.f1_score(right, given, average="macro", zero_division=0))
    expected = 0.0 if len({*right, *given}) == 1 else metrics.matthews_corrcoef(right, given)
    assert scores["matthews"] == pytest.approx(expected)


_FLAGS = st.tuples(*[st.booleans()] * 3)


@given(st.lists(st.tuples(_FLAGS, _FLAGS), min_size=1, max_size=20))
def test_multilabel_agrees_with_its_definition(pairs: list[tuple[tuple[bool, ...], tuple[bool, ...]]]) -> None:
    """Macro F1 is the mean over all labels, 0 for one without examples; micro F1 counts all labels together."""
    task = TASKS[Kind.MULTILABEL]
    examples = [Example(Input("a"), tuple(map(int, right))) for right, _ in pairs]
    answers = [
        MultilabelAnswer(tuple(LabelScore(x, 0.9) for x, on in zip(task.labels, given, strict=True) if on), {})
        for _, given in pairs
    ]
    right, given = (np.array(side) for side in zip(*pairs, strict=True))
    hits, total = (right & given).sum(axis=0), right.sum(axis=0) + given.sum(axis=0)
    scores = score_answers(task, examples, answers)
    per_label = [2 * hit / both if both else 0.0 for hit, both in zip(hits, total, strict=True)]
    assert scores["macro_f1"] == pytest.approx(sum(per_label) / 3)
    assert scores["micro_f1"] == pytest.approx(2 * hits.sum() / total.sum() if total.sum() else 0.0)


def test_regression_agrees_with_scipy() -> None:
    """Pearson and Spearman are scipy's, and the main metric is their mean."""
    generator = np.random.default_rng(0)
    right = generator.uniform(0, 5, 40)
    given = right**3 + generator.normal(0, 20, 40)
    scores = score_answers(
        TASKS[Kind.REGRESSION],
        [Example(Input("a", "b"), value) for value in right.tolist()],
        [RegressionAnswer(value) for value in given.tolist()],
    )
    assert scores["pearson"] == pytest.approx(stats.pearsonr(right, given)[0])
    assert scores["spearman"] == pytest.approx(stats.spearmanr(right, given)[0])
    assert scores["pearson_spearman"] == pytest.approx((scores["pearson"] + scores["spearman"]) / 2)
    assert scores["pearson"] != pytest.approx(scores["spearman"], abs=0.01)


@pytest.mark.parametrize(("right", "given"), [([1, 2, 3], [2, 2, 2]), ([2, 2], [1, 3]), ([1, 1], [1, 1]), ([1], [1])])
def test_a_constant_has_correlation_zero(right: list[float], given: list[float]) -> None:
    """If all values are equal, given or right, the correlation is 0 instead of undefined."""
    examples = [Example(Input("a", "b"), value) for value in right]
    scores = score_answers(TASKS[Kind.REGRESSION], examples, [RegressionAnswer(value) for value in given])
    assert set(scores.values()) == {0.0}


# Ranking, multiple choice


def _query(*relevant: float) -> Example:
    return Example(Input("q", candidates=tuple("abcdefgh"[: len(relevant)])), relevant)


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=8), min_size=1, max_size=6), st.randoms())
def test_ranking_agrees_with_its_definition(queries: list[list[int]], generator: Any) -> None:
    """MAP and MRR are means over queries of the precision at relevant ranks and of 1 / first relevant rank."""
    examples = [_query(*relevant) for relevant in queries]
    orders = [generator.sample(range(len(relevant)), len(relevant)) for relevant in queries]
    scores = score_answers(
        TASKS[Kind.RANKING], examples, [_ranking(e, order) for e, order in zip(examples, orders, strict=True)]
    )
    precisions, ranks = [], []
    for relevant, order in zip(queries, orders, strict=True):
        indices = [index for index, candidate in enumerate(order, start=1) if relevant[candidate]]
        if indices and len(indices) < len(relevant):
            precisions.append(sum(found / index for found, index in enumerate(indices, start=1)) / len(indices))
            ranks.append(1 / indices[0])
    assert scores["map"] == pytest.approx(sum(precisions) / len(precisions) if precisions else 0.0, abs=1e-6)
    assert scores["mrr"] == pytest.approx(sum(ranks) / len(ranks) if ranks else 0.0, abs=1e-6)


@given(st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=8), min_size=1, max_size=6), st.randoms())
def test_graded_ranking_agrees_with_scikit_learn(queries: list[list[int]], generator: Any) -> None:
    """NDCG is scikit-learn's, with linear gains over the whole ranking, for grades of any scale."""
    examples = [_query(*(grade / 5 for grade in grades)) for grades in queries]
    orders = [generator.sample(range(len(grades)), len(grades)) for grades in queries]
    answers = [_ranking(example, order) for example, order in zip(examples, orders, strict=True)]
    expected = [
        metrics.ndcg_score([grades], [[-order.index(candidate) for candidate in range(len(grades))]])
        for grades, order in zip(queries, orders, strict=True)
        if len(set(grades)) > 1
    ]
    found = score_answers(TASKS[Kind.RANKING], examples, answers)["ndcg"]
    assert found == pytest.approx(np.mean(expected or [0.0]), abs=1e-6)


def test_tied_scores_are_ranked_as_they_were_answered() -> None:
    """Candidates with equal scores are ranked in the order of the answer."""
    example = _query(0, 1, 0)
    for order, expected in (((1, 0, 2), 1.0), ((0, 1, 2), 1 / 2), ((0, 2, 1), 1 / 3)):
        scores = score_answers(TASKS[Kind.RANKING], [example], [_ranking(example, order)])
        assert (scores["map"], scores["mrr"]) == pytest.approx((expected, expected))


def test_a_query_that_any_order_answers_is_left_out() -> None:
    """Queries with only relevant or only irrelevant candidates are not scored."""
    hard = _query(0, 1)
    answers = [_ranking(example, (0, 1)) for example in (hard, _query(1, 1), _query(0, 0))]
    scores = score_answers(TASKS[Kind.RANKING], [hard, _query(1, 1), _query(0, 0)], answers)
    assert scores == pytest.approx({"map": 0.5, "mrr": 0.5, "ndcg": 1 / math.log2(3)})


def test_multiple_choice_is_the_share_of_right_choices() -> None:
    """Accuracy compares indices of choices, not texts."""
    examples = [Example(Input("a", candidates=("x", "x", "y")), right) for right in (0, 1, 2, 2)]
    answers = [MultipleChoiceAnswer(choice, "x", ()) for choice in (0, 0, 2, 1)]
    assert score_answers(TASKS[Kind.MULTIPLE_CHOICE], examples, answers) == {"accuracy": 0.5}


# Tagging

_BIO = TASKS[Kind.TAGGING].labels


def _words(count: int, labels: Sequence[int] = ()) -> Example:
    return Example(Input.from_words([f"w{index}" for index in range(count)]), tuple(labels))


def _conll(tags: Sequence[str]) -> list[str]:
    """The tags with every `I-x` that begins a run written as `B-x`, which is how conlleval reads it."""
    return [
        f"B-{tag[2:]}" if tag[0] == "I" and (previous == "O" or previous[2:] != tag[2:]) else tag
        for previous, tag in zip(["O", *tags], tags, strict=False)
    ]


@given(st.lists(st.sampled_from(_BIO), min_size=1, max_size=12))
def test_entities_turn_back_into_their_tags(tags: list[str]) -> None:
    """Tags turned into entities and back are the same, or as conlleval reads them."""
    example = _words(len(tags))
    assert word_tags(example, _tagging(example, tags), bio=True) == _conll(tags)


@given(st.lists(st.sampled_from(["NOUN", "VERB", "O"]), min_size=1, max_size=12))
def test_plain_tags_turn_back_into_themselves(tags: list[str]) -> None:
    """Plain tags turned into entities and back are the same, word by word."""
    example = _words(len(tags))
    assert word_tags(example, _tagging(example, tags, bio=False), bio=False) == tags


def test_words_beyond_the_answer_are_outside() -> None:
    """Truncated words are `O`, and an entity that covers a word only partly does not contain it."""
    example = _words(4)
    entities = (Entity("w0 w1", "place", 0, 5, 1.0), Entity("w2 w", "animal", 6, 10, 1.0))
    assert word_tags(example, TaggingAnswer(entities), bio=True) == ["B-place", "I-place", "B-animal", "O"]


_SENTENCE = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8)


@given(st.lists(_SENTENCE, min_size=1, max_size=5))
def test_tagging_agrees_with_seqeval(sentences: list[list[tuple[int, int]]]) -> None:
    """Span F1 is seqeval's on the tags of all words, token accuracy the share of words with the right tag."""
    examples = [_words(len(own), [right for right, _ in own]) for own in sentences]
    given = [[_BIO[tag] for _, tag in own] for own in sentences]
    answers = [_tagging(example, tags) for example, tags in zip(examples, given, strict=True)]
    scores = score_answers(TASKS[Kind.TAGGING], examples, answers)
    right = [[_BIO[tag] for tag, _ in own] for own in sentences]
    assert scores["span_f1"] == pytest.approx(entity_f1(right, given, zero_division=0))
    hits = [r == g for rs, gs in zip(right, map(_conll, given), strict=True) for r, g in zip(rs, gs, strict=True)]
    assert scores["token_accuracy"] == pytest.approx(sum(hits) / len(hits))


def test_text_f1_counts_entities_with_the_right_label_start_and_end() -> None:
    """Of two right entities one is found and one is too long; with a third that is not there F1 is 2 / 5."""
    task = Task("task", Kind.TAGGING, 32, labels=("O", "B-place", "I-place"))
    example = Example(Input("Rome 's Paris .", words=((0, 4), (5, 7), (8, 13), (14, 15))), (1, 0, 1, 0))
    data = replace(_task_data({"validation": 1}), task=task, validation=(example,))
    entities = (
        Entity("Rome 's", "place", 0, 7, 1.0),
        Entity("Paris", "place", 8, 13, 1.0),
        Entity(".", "place", 14, 15, 1.0),
    )
    assert score_task_on_text(data, [example], [TaggingAnswer(entities)]) == {"text_f1": 2 / 5}


def test_plain_tags_have_no_spans() -> None:
    """Plain tags are scored by words only."""
    task = Task("pos", Kind.TAGGING, 32, labels=("NOUN", "VERB"))
    examples = [_words(3, [0, 1, 0]), _words(1, [1])]
    answers = [_tagging(examples[0], ["NOUN", "NOUN", "NOUN"], bio=False), TaggingAnswer(())]
    assert score_answers(task, examples, answers) == {"token_accuracy": 0.5}


# Span


def _context(context: str, *answers: tuple[int, int]) -> Example:
    return Example(Input("q", context), answers)


@pytest.mark.parametrize(
    ("text", "f1", "exact"),
    [
        ("black cat", 1.0, 1.0),
        ("The Black cat.", 1.0, 1.0),
        ("cat", 2 / 3, 0.0),
        ("the cat sat", 0.5, 0.0),
        ("dog", 1.0, 1.0),
        ("paris", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_spans_are_scored_as_in_squad(text: str, f1: float, exact: float) -> None:
    """Words are compared without case, articles and punctuation, with the best match of several answers."""
    example = _context("a black cat and a dog", (2, 11), (18, 21))
    scores = score_answers(TASKS[Kind.SPAN], [example], [SpanAnswer(text, 0, len(text), 1.0)])
    assert scores == pytest.approx({"f1": f1, "exact_match": exact})


def test_span_scores_are_means_over_questions() -> None:
    """Every question counts alike, from 0 to 1."""
    example = _context("a black cat", (2, 11))
    answers = [SpanAnswer(text, 0, len(text), 1.0) for text in ("black cat", "cat", "dog", "dog")]
    scores = score_answers(TASKS[Kind.SPAN], [example] * 4, answers)
    assert scores == pytest.approx({"f1": (1 + 2 / 3) / 4, "exact_match": 0.25})


def test_questions_without_an_answer_are_scored_as_in_squad_2() -> None:
    """No answer is right as an empty one alone, and F1 is given for questions with and without an answer as well."""
    task = replace(TASKS[Kind.SPAN], thresholds=(0.5,))
    examples = [_context("a black cat", (2, 11)), _context("a black cat"), _context("a black cat")]
    answers = [OptionalSpanAnswer(text, 0, len(text), 1.0, 0.5) for text in ("cat", "", "cat")]
    scores = score_answers(task, examples, answers)
    expected = {"f1": (2 / 3 + 1) / 3, "exact_match": 1 / 3, "has_answer_f1": 2 / 3, "no_answer_f1": 1 / 2}
    assert scores == pytest.approx(expected)
    assert "no_answer_f1" not in score_answers(task, examples[:1], answers[:1])


_CALLS: list[tuple[Kind, Callable[[], tuple[Example, Answer]]]] = [
    (Kind.CLASSIFICATION, lambda: (Example(Input("a"), 0), ClassificationAnswer("good", 1.0, {}))),
    (Kind.MULTILABEL, lambda: (Example(Input("a"), (0, 0, 0)), MultilabelAnswer((), {}))),
    (Kind.REGRESSION, lambda: (Example(Input("a", "b"), 1.0), RegressionAnswer(1.0))),
    (Kind.RANKING, lambda: (_query(1), _ranking(_query(1), (0,)))),
    (Kind.TAGGING, lambda: (_words(2, [0, 0]), TaggingAnswer(()))),
    (Kind.SPAN, lambda: (_context("a", (0, 1)), SpanAnswer("", 0, 0, 0.0))),
]


@pytest.mark.parametrize(("kind", "call"), _CALLS)
def test_a_lonely_example_has_finite_scores(kind: Kind, call: Callable[[], tuple[Example, Answer]]) -> None:
    """A single example with nothing to find gives finite scores and no warning."""
    example, answer = call()
    scores = score_answers(TASKS[kind], [example], [answer])
    assert all(type(value) is float and math.isfinite(value) for value in scores.values())
