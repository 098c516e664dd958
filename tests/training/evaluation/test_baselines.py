"""Baselines: the scores of trivial answers on data made for them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from polytask.model.encoding import Input
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import Example, TaskData
from polytask.training.evaluation.baselines import DESCRIPTIONS, score_baseline
from polytask.training.evaluation.metrics import Scores
from polytask.training.recipes.schema import TaskConfig
from tests.support import tiny
from tests.training.conftest import Workshop

TASKS = {task.kind: task for task in tiny.tasks()}


def _score(task: Task, train: Sequence[Example], validation: Sequence[Example], **config: str) -> Scores:
    fields = {"name": task.name, "kind": task.kind, "train": "a.jsonl", "validation": "b.jsonl", **config}
    sizes = {"validation": len(validation)}
    return score_baseline(TaskData(task, TaskConfig.model_validate(fields), tuple(train), tuple(validation), sizes))


def _classified(*targets: int) -> list[Example]:
    return [Example(Input("a"), target) for target in targets]


def _tagged(task: Task, *sentences: str) -> list[Example]:
    """Examples from sentences of `word/tag`."""
    found = []
    for sentence in sentences:
        words, tags = zip(*(pair.split("/") for pair in sentence.split()), strict=True)
        found.append(Example(Input.from_words(words), tuple(task.labels.index(tag) for tag in tags)))
    return found


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_a_trivial_answer(workshop: Workshop, kind: Kind) -> None:
    """Each kind has a description and a baseline in its own metrics, between 0 and 1."""
    (task_data,) = [task_data for task_data in workshop.data if task_data.task.kind is kind]
    scores = score_baseline(task_data)
    assert scores
    assert all(0 <= value <= 1 for value in scores.values())
    assert DESCRIPTIONS[kind]


def test_classification_takes_the_most_frequent_label() -> None:
    """The trivial answer is the most frequent training label."""
    scores = _score(TASKS[Kind.CLASSIFICATION], _classified(2, 1, 2), _classified(1, 2, 2, 0, 0))
    assert scores["accuracy"] == pytest.approx(0.4)
    assert scores["matthews"] == 0


def test_the_recipes_metric_comes_first() -> None:
    """The baseline is measured like the model, with the recipe's main metric first."""
    scores = _score(
        TASKS[Kind.CLASSIFICATION], _classified(0, 1), _classified(0, 1, 2), metric="f1", positive_label="good"
    )
    assert next(iter(scores)) == "f1"


def test_multilabel_takes_the_most_frequent_label() -> None:
    """The trivial multilabel answer is the one most frequent training label."""
    train = [Example(Input("a"), target) for target in ((0, 1, 0), (1, 1, 0), (0, 0, 1))]
    validation = [Example(Input("a"), target) for target in ((0, 1, 0), (0, 0, 0))]
    scores = _score(TASKS[Kind.MULTILABEL], train, validation)
    assert scores == pytest.approx({"macro_f1": (2 / 3) / 3, "micro_f1": 2 / 3})


def test_regression_takes_the_mean() -> None:
    """The trivial regression answer is the mean, which has correlation 0."""
    values = [Example(Input("a", "b"), value) for value in (1.0, 2.0, 4.0)]
    assert set(_score(TASKS[Kind.REGRESSION], values, values).values()) == {0.0}


def test_ranking_takes_a_random_order() -> None:
    """With one relevant candidate of two, MAP and MRR are near 3/4, and equal on every call."""
    queries = [Example(Input("q", candidates=("a", "b")), (index % 2, 1 - index % 2)) for index in range(60)]
    scores = _score(TASKS[Kind.RANKING], queries, queries)
    assert scores["map"] == scores["mrr"] == pytest.approx(0.75, abs=0.03)
    assert _score(TASKS[Kind.RANKING], queries, queries) == scores


def test_multiple_choice_takes_the_most_frequent_index() -> None:
    """The trivial choice has the most frequent index in training, or is the last one of fewer."""

    def examples(*pairs: tuple[int, int]) -> list[Example]:
        return [Example(Input("q", candidates=tuple("abcd"[:count])), right) for count, right in pairs]

    train = examples((4, 2), (4, 2), (3, 0))
    scores = _score(TASKS[Kind.MULTIPLE_CHOICE], train, examples((4, 2), (2, 1), (4, 1), (3, 0)))
    assert scores == {"accuracy": 0.5}


def test_tagging_takes_each_words_most_frequent_tag() -> None:
    """A known word gets its most frequent tag, an unknown one the most frequent tag overall."""
    task = TASKS[Kind.TAGGING]
    train = _tagged(task, "in/O paris/B-place city/I-place", "paris/B-place sat/O", "a/O cat/B-animal", "paris/O")
    validation = _tagged(task, "paris/B-place city/I-place cat/B-animal", "new/O word/B-animal")
    scores = _score(task, train, validation)
    # Two entities of three are found, four words of five.
    assert scores == pytest.approx({"span_f1": 2 * 1 * (2 / 3) / (1 + 2 / 3), "token_accuracy": 0.8})


def test_plain_tags_have_a_lexicon_too() -> None:
    """Tags that are not BIO get each word's most frequent tag, too."""
    task = Task("pos", Kind.TAGGING, 32, labels=("NOUN", "VERB"))
    train = _tagged(task, "cat/NOUN sat/VERB", "dog/NOUN")
    assert _score(task, train, _tagged(task, "cat/VERB sat/VERB new/NOUN")) == {"token_accuracy": 2 / 3}


@pytest.mark.parametrize(
    ("context", "answer", "exact"),
    [
        ("A cat sat. It ran.", "A cat sat", 1.0),
        ("A cat sat. It ran. It slept.", "It ran", 0.0),
        ("one sentence without an end", "one sentence without an end", 1.0),
        ("It ends here.", "It ends here.", 1.0),
    ],
)
def test_span_takes_the_first_sentence(context: str, answer: str, exact: float) -> None:
    """The trivial span is the text before the first full stop, or the whole context."""
    start = context.index(answer)
    example = Example(Input("q", context), ((start, start + len(answer)),))
    assert _score(TASKS[Kind.SPAN], [example], [example])["exact_match"] == exact


def _without_targets(examples: Sequence[Example]) -> list[Example]:
    return [Example(example.input, examples[0].target) for example in examples]


def test_the_baseline_learns_from_training_alone(workshop: Workshop) -> None:
    """Changed validation targets change the baseline's score but not its answers."""
    task_data = workshop.data[0]
    scores = _score(task_data.task, _classified(1), task_data.validation)
    right = sum(example.target == 1 for example in task_data.validation) / len(task_data.validation)
    assert scores["accuracy"] == pytest.approx(right)
    assert _score(task_data.task, _classified(1), _without_targets(task_data.validation))["accuracy"] in {0.0, 1.0}
