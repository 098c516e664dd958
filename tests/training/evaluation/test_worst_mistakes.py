"""Worst mistakes of a task, of every kind."""

from __future__ import annotations

import pytest

from polytask.model.answers import ClassificationAnswer, Entity, SpanAnswer, TaggingAnswer
from polytask.model.encoding import Input
from polytask.model.tasks import Kind
from polytask.training.data.examples import Example
from polytask.training.evaluation.worst_mistakes import MAX_MISTAKES, worst_mistakes
from tests.training.support.guesses import answers_to, examples_of, task_of


@pytest.mark.parametrize("kind", Kind)
def test_the_worst_mistakes_come_first(kind: Kind) -> None:
    """At most ten mistakes are kept, the worst ones, in order."""
    task = task_of(kind)
    examples = examples_of(task, 200)
    answers = answers_to(task, examples, skill=0.3)
    mistakes = worst_mistakes(task, examples, answers)
    assert len(mistakes) == MAX_MISTAKES
    if kind is not Kind.SPAN:  # whose order is also one of how little of the answer was found
        scores = [one["score"] for one in mistakes]
        assert scores == sorted(scores, reverse=True)
    assert all(one["right"] != one["given"] for one in mistakes)


def test_a_mistake_is_shown_with_its_texts_cut() -> None:
    """A mistake has the right and given label, the score, and a long text cut with an ellipsis."""
    task = task_of(Kind.CLASSIFICATION)
    first, second, *_ = task.labels
    example = Example(Input("a word " * 200), 0)
    answer = ClassificationAnswer(second, 0.9, dict.fromkeys(task.labels, 0.05) | {second: 0.9})
    (mistake,) = worst_mistakes(task, [example], [answer])
    (text,) = mistake.pop("input")
    assert mistake == {"right": first, "given": second, "score": 0.9}
    assert example.input.text.startswith(text[:-1])
    assert text.endswith("…")
    assert len(text) <= 300


def test_a_wrong_entity_is_shown_beside_the_correct_one() -> None:
    """An entity with a wrong type or wrong words is a mistake; a correct one is not."""
    task = task_of(Kind.TAGGING)
    begin = next(label for label in task.labels if label.startswith("B-"))
    kind = begin[2:]
    example = Example(Input.from_words(["old", "Paris", "town"]), tuple(map(task.labels.index, ("O", begin, "O"))))
    right, wider = Entity("Paris", kind, 4, 9, 0.8), Entity("Paris town", kind, 4, 14, 0.7)
    assert worst_mistakes(task, [example], [TaggingAnswer((right,))]) == []
    (mistake,) = worst_mistakes(task, [example], [TaggingAnswer((wider,))])
    assert (mistake["right"], mistake["given"]) == (f"Paris ({kind})", f"Paris town ({kind})")


def test_an_answer_that_is_all_wrong_is_worse_than_a_surer_one_that_is_half_right() -> None:
    """Wrong spans are ordered by score times (1 - F1)."""
    task = task_of(Kind.SPAN)
    examples = [Example(Input("q", "blue sky over hills"), ((0, 8),))] * 2
    half, wrong = SpanAnswer("blue", 0, 4, 0.9), SpanAnswer("hills", 14, 19, 0.6)
    mistakes = worst_mistakes(task, examples, [half, wrong])
    assert [one["given"] for one in mistakes] == ["hills", "blue"]
