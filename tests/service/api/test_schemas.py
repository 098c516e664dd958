"""Request schemas: from a request body to the model's `Input` and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.model.encoding import Input
from polytask.model.tasks import Task
from polytask.service.api.parsing import parse
from polytask.service.api.schemas import from_input, input_fields
from polytask.service.errors import InvalidInput, ServiceError, TooManyInputs
from tests.support import tiny

TASKS = {task.name: task for task in tiny.tasks()}


def parsed(task: str, *inputs: Any) -> list[Input | ServiceError]:
    """The inputs of a request."""
    body = json.dumps({"inputs": inputs}).encode()
    return parse(TASKS[task], body, max_inputs=8, max_candidates=4).items


@pytest.mark.parametrize(
    ("task", "given", "expected"),
    [
        ("mood", "a b", Input("a b")),
        ("mood", {"text": "a b"}, Input("a b")),
        ("topics", "a b", Input("a b")),
        ("closeness", {"text": "a", "text_pair": "b"}, Input("a", "b")),
        ("relevance", {"query": "q", "candidates": ["a", "b"]}, Input("q", candidates=("a", "b"))),
        ("choice", {"text": "t", "choices": ["a", "b"]}, Input("t", candidates=("a", "b"))),
        ("choice", {"text": "t", "question": "q?", "choices": ["a", "b"]}, Input("t q?", candidates=("a", "b"))),
        ("entities", "a b", Input("a b")),
        ("entities", {"text": "a b"}, Input("a b")),
        ("entities", {"tokens": ["a", "bc"]}, Input("a bc", words=((0, 1), (2, 4)))),
        ("answer", {"question": "q", "context": "c"}, Input("q", "c")),
    ],
)
def test_an_input_of_each_kind(task: str, given: Any, expected: Input) -> None:
    """Each shape that a client may send becomes the expected `Input`."""
    assert parsed(task, given) == [expected]


@pytest.mark.parametrize(
    ("task", "given", "field", "message"),
    [
        ("mood", 5, "inputs[0]", "must be a string or an object"),
        ("mood", None, "inputs[0]", "must be a string or an object"),
        ("mood", "", "inputs[0]", "must not be blank"),
        ("mood", " \n\t", "inputs[0]", "must not be blank"),
        ("mood", {}, "inputs[0].text", "is required"),
        ("mood", {"text": 5}, "inputs[0].text", "valid string"),
        ("mood", {"text": " "}, "inputs[0].text", "must not be blank"),
        ("mood", {"text": "a", "text_pair": "b"}, "inputs[0].text_pair", "is not a field: an input of 'mood' has text"),
        ("mood", {"text": "a", "tokens": ["a"]}, "inputs[0].tokens", "is not a field"),
        ("closeness", "a", "inputs[0]", "must be an object: an input of 'closeness' has text and text_pair"),
        ("closeness", {"text": "a"}, "inputs[0].text_pair", "is required"),
        ("relevance", {"query": "q", "candidates": []}, "inputs[0].candidates", "must have at least 1 item"),
        ("relevance", {"query": "q", "candidates": ["a", " "]}, "inputs[0].candidates[1]", "must not be blank"),
        ("relevance", {"query": "q", "candidates": "a"}, "inputs[0].candidates", "valid array"),
        ("choice", {"text": "t", "choices": ["a"]}, "inputs[0].choices", "must have at least 2 items"),
        ("choice", {"text": "t", "question": "", "choices": ["a", "b"]}, "inputs[0].question", "must not be blank"),
        ("entities", {"tokens": []}, "inputs[0].tokens", "at least 1"),
        ("entities", {"tokens": ["a", ""]}, "inputs[0].tokens[1]", "must not be blank"),
        ("entities", {"tokens": ["a"], "text": "a"}, "inputs[0].text", "has text or tokens"),
        ("answer", "q", "inputs[0]", "an input of 'answer' has question and context"),
        ("answer", {"question": "q", "context": ""}, "inputs[0].context", "must not be blank"),
    ],
)
def test_a_malformed_input_is_named(task: str, given: Any, field: str, message: str) -> None:
    """The error names the field as the client knows it, and says what it must be."""
    with pytest.raises(InvalidInput) as refused:
        parsed(task, given)
    (error,) = refused.value.errors
    assert error.field == field
    assert message in error.message


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"not json", "body"),
        (b'"text"', "body"),
        (b"[]", "body"),
        (b"{}", "inputs"),
        (b'{"inputs": "a"}', "inputs"),
        (b'{"inputs": []}', "inputs"),
        (b'{"inputs": ["a"], "input": 1}', "input"),
        (b'{"inputs": ["\\ud800"]}', "inputs[0]"),
    ],
)
def test_a_malformed_body_is_named(body: bytes, field: str) -> None:
    """An error outside the inputs is named, too."""
    with pytest.raises(InvalidInput) as refused:
        parse(TASKS["mood"], body, max_inputs=8, max_candidates=4)
    assert [error.field for error in refused.value.errors] == [field]


def test_every_wrong_input_is_named_up_to_a_limit() -> None:
    """The error lists all invalid inputs of a request, at most 20 of them."""
    with pytest.raises(InvalidInput) as refused:
        parsed("mood", "fine", 1, " ")
    assert [error.field for error in refused.value.errors] == ["inputs[1]", "inputs[2]"]
    with pytest.raises(InvalidInput) as refused:
        parsed("mood", *range(100))
    assert len(refused.value.errors) == 20


@pytest.mark.parametrize(
    ("task", "inputs", "field"),
    [
        ("mood", ["a"] * 9, "inputs"),
        ("relevance", [{"query": "q", "candidates": ["a"] * 5}], "inputs[0].candidates"),
        ("choice", [{"text": "q", "choices": ["a"] * 5}], "inputs[0].choices"),
    ],
)
def test_too_many_inputs_or_candidates(task: str, inputs: list[Any], field: str) -> None:
    """An error for an exceeded limit names its field."""
    with pytest.raises(TooManyInputs, match="the limit is") as refused:
        parsed(task, *inputs)
    assert refused.value.errors[0].field == field


texts = st.text(max_size=8).map("a".__add__)


@settings(deadline=None, max_examples=25)
@given(st.data())
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_an_input_survives_a_round_trip(task: Task, data: st.DataObject) -> None:
    """`parse` reads the result of `from_input` as the same input."""
    example = tiny.inputs()[task.name]
    words = data.draw(st.lists(texts, min_size=1, max_size=4))
    item = Input(
        data.draw(texts),
        None if example.text_pair is None else data.draw(texts),
        tuple(data.draw(st.lists(texts, min_size=2, max_size=4))) if example.candidates else (),
    )
    for original in [item, Input.from_words(words)] if task.name == "entities" else [item]:
        body = json.dumps({"inputs": [from_input(task, original)]}).encode()
        assert parse(task, body, max_inputs=1, max_candidates=4).items == [original]


def test_the_input_fields_of_each_task() -> None:
    """`input_fields` lists name and type of each field, and whether it is required."""
    found = {
        name: {field.name: (field.type, field.required) for field in input_fields(task)} for name, task in TASKS.items()
    }
    assert found == {
        "mood": {"text": ("string", True)},
        "topics": {"text": ("string", True)},
        "closeness": {"text": ("string", True), "text_pair": ("string", True)},
        "relevance": {"query": ("string", True), "candidates": ("array of strings", True)},
        "choice": {"text": ("string", True), "question": ("string", False), "choices": ("array of strings", True)},
        "entities": {"text": ("string", False), "tokens": ("array of strings", False)},
        "answer": {"question": ("string", True), "context": ("string", True)},
    }
