"""One label: heads that always say the same are found, and no others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polytask.model.answers import Answer, ClassificationAnswer, MultilabelAnswer, TaggingAnswer
from polytask.model.tasks import Kind
from polytask.training.evaluation.one_label import only_answer
from tests.training.support.guesses import answers_to, examples_of, task_of

_SAME: dict[Kind, Answer] = {
    Kind.CLASSIFICATION: ClassificationAnswer("label_1", 1.0, {}),
    Kind.MULTILABEL: MultilabelAnswer((), {}),
    Kind.TAGGING: TaggingAnswer(()),
}


@pytest.mark.parametrize(
    ("kind", "said"),
    [(Kind.CLASSIFICATION, "'label_1'"), (Kind.MULTILABEL, "no label"), (Kind.TAGGING, "no entity")],
)
def test_a_head_that_says_one_thing_is_named(kind: Kind, said: str) -> None:
    """A head whose answers are all the same is named with what it says, where the data have others."""
    task = task_of(kind, labels=3 if kind is Kind.CLASSIFICATION else 0)
    examples = examples_of(task, 50)
    found = only_answer(task, examples, [_SAME[kind]] * 50)
    assert found is not None
    assert found.startswith(f"says {said} in 100% of 50 answers, where ")


@pytest.mark.parametrize("kind", Kind)
def test_a_head_that_says_several_things_is_not(kind: Kind) -> None:
    """Heads of any kind that are right in half of the cases are not named."""
    task = task_of(kind)
    examples = examples_of(task, 200)
    assert only_answer(task, examples, answers_to(task, examples, skill=0.5)) is None


def test_data_of_one_label_are_no_fault() -> None:
    """A head that says one label is not named where nearly all examples have it, nor on a handful of examples."""
    task = task_of(Kind.CLASSIFICATION, labels=3)
    examples = [replace(example, target=1) for example in examples_of(task, 100)]
    others = [replace(example, target=0) for example in examples[:4]]
    assert only_answer(task, [*examples, *others], [_SAME[Kind.CLASSIFICATION]] * 104) is None
    assert only_answer(task, examples_of(task, 10), [_SAME[Kind.CLASSIFICATION]] * 10) is None
