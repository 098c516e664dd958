"""Answers from JSON of a newer or an older service; those of today are tested against a real service."""

from __future__ import annotations

import pytest

from polytask_client import Answer, BadResponse, ClassificationAnswer, Failed, MultipleChoiceAnswer, RegressionAnswer
from polytask_client.answers import read_answer, read_prediction, read_tasks_prediction


def test_what_is_not_known_is_kept() -> None:
    """Fields that a newer service adds stay in `fields`, and so does an answer of an unknown kind."""
    fields = {"value": 1.5, "tokens": 7, "dropped_tokens": 2, "interval": [1, 2]}
    assert read_answer(fields) == RegressionAnswer(1.5, fields=fields, tokens=7, dropped_tokens=2)
    assert read_answer(fields).fields["interval"] == [1, 2]
    summary = read_answer({"summary": "short"})
    assert type(summary) is Answer
    assert summary.fields == {"summary": "short"}


def test_what_may_be_left_out_may_be_missing() -> None:
    """An answer without the optional `scores` is read with empty ones."""
    label, choice = read_answer({"label": "a", "score": 0.9}), read_answer({"choice": 0, "text": "a"})
    assert isinstance(label, ClassificationAnswer)
    assert isinstance(choice, MultipleChoiceAnswer)
    assert (label.scores, choice.scores) == ({}, ())


def test_none_of_the_labels_is_none() -> None:
    """A classification that says none of the labels has the label None and keeps its scores."""
    answer = read_answer({"label": None, "score": 0.4, "scores": {"a": 0.4, "b": 0.3}})
    assert isinstance(answer, ClassificationAnswer)
    assert answer.label is None
    assert (answer.score, answer.scores) == (0.4, {"a": 0.4, "b": 0.3})


def test_an_error_may_stand_in_the_place_of_an_answer() -> None:
    """An error in place of an answer is read as a `Failed` with its problem, and is written as it was read."""
    problem = {"type": "urn:polytask:invalid-input", "title": "Invalid input", "status": 422, "detail": "blank"}
    failed = read_answer({"error": problem})
    assert isinstance(failed, Failed)
    assert (failed.problem.status, failed.problem.detail) == (422, "blank")
    assert Failed.of(failed.problem).fields == failed.fields


def test_answers_can_be_had_as_those_of_a_kind() -> None:
    """`of` gives answers of the expected kind, and names the kind or the problem of an answer that has another."""
    fields = {"task": "a", "model": "m/1", "answers": [{"value": 1}, {"error": {"detail": "too long"}}]}
    prediction = read_prediction(fields, 2)
    assert read_prediction(fields | {"answers": fields["answers"][:1]}, 1).of(RegressionAnswer)[0].value == 1
    with pytest.raises(TypeError, match="answer 0 of 'a' is a RegressionAnswer, not a ClassificationAnswer"):
        prediction.of(ClassificationAnswer)
    with pytest.raises(TypeError, match="answer 1 of 'a' is a Failed, not a RegressionAnswer: too long"):
        prediction.of(RegressionAnswer)


def test_answers_of_several_tasks() -> None:
    """Answers of several tasks come by task, and each task must have as many as there were inputs."""
    fields = {
        "model": "m/1",
        "results": {"a": {"answers": [{"value": 1}]}, "b": {"answers": [{"label": "x", "score": 1}]}},
        "usage": {"tokens": 9},
    }
    prediction = read_tasks_prediction(fields, 1)
    assert prediction.results["a"] == (RegressionAnswer(1, fields={}),)
    assert prediction.usage == {"tokens": 9}
    with pytest.raises(BadResponse, match="2 inputs were sent, 1 answers came back"):
        read_tasks_prediction(fields, 2)
