"""Parsing of request bodies: options, errors per item, and several tasks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from polytask.model.encoding import Input
from polytask.model.truncation import Truncation
from polytask.service.api.parsing import ParsedRequest, parse, parse_for_tasks
from polytask.service.errors import InvalidInput, ServiceError, TooManyInputs, UnknownTask
from tests.support import tiny

TASKS = {task.name: task for task in tiny.tasks()}


def parsed(task: str, inputs: list[Any], **rest: Any) -> ParsedRequest:
    """A parsed body for one task."""
    return parse(TASKS[task], json.dumps({"inputs": inputs, **rest}).encode(), max_inputs=8, max_candidates=4)


def parsed_for_tasks(tasks: Any, inputs: list[Any], **rest: Any) -> tuple[list[str], ParsedRequest]:
    """A parsed body for several tasks, with their names."""
    body = json.dumps({"tasks": tasks, "inputs": inputs, **rest}).encode()
    return parse_for_tasks(TASKS, body, max_inputs=8, max_candidates=4)


def fields_of(refused: ServiceError | Input) -> list[str]:
    """The fields that an error names."""
    assert isinstance(refused, ServiceError)
    return [error.field for error in refused.errors]


def test_options_and_errors_are_read() -> None:
    """A body may have `options` and `errors` besides its inputs; without them the defaults hold."""
    assert parsed("mood", ["a"]) == ParsedRequest([Input("a")], None, per_item=False)
    found = parsed("mood", ["a"], options={"top_k": 2, "truncation": "left"}, errors="per_item")
    assert found.per_item
    assert found.options is not None
    assert (found.options.top_k, found.options.truncation) == (2, Truncation.LEFT)


@pytest.mark.parametrize(
    ("rest", "field", "message"),
    [
        ({"options": {"top_k": 0}}, "options.top_k", "greater than or equal to 1"),
        ({"options": {"top_k": "2"}}, "options.top_k", "valid integer"),
        ({"options": {"raw_scores": 1}}, "options.raw_scores", "valid boolean"),
        ({"options": {"truncation": "middle"}}, "options.truncation", "'left', 'error' or 'window'"),
        ({"options": {"thresholds": {"cats": 1.5}}}, "options.thresholds.cats", "less than or equal to 1"),
        ({"options": {"topk": 2}}, "options.topk", "is not a field: options are top_k, raw_scores, truncation"),
        ({"options": []}, "options", "must be an object: options are"),
        ({"errors": "ignore"}, "errors", "'fail' or 'per_item'"),
        ({"error": "fail"}, "error", "a request has inputs, and may have options and errors"),
    ],
)
def test_a_malformed_option_is_named(rest: dict[str, Any], field: str, message: str) -> None:
    """The error has the path of the option and says what it must be, for one task and for several."""
    for ask in (lambda: parsed("topics", ["a"], **rest), lambda: parsed_for_tasks(["topics", "mood"], ["a"], **rest)):
        with pytest.raises(InvalidInput) as refused:
            ask()
        (error,) = refused.value.errors
        assert error.field == field
        assert message in error.message.replace("tasks and inputs", "inputs")


HALF = "cut \ud83d"


@pytest.mark.parametrize("half", [HALF, "\udc00", {"text": HALF}, {"\ud83d": "a"}, {"tokens": ["a", HALF]}])
def test_half_of_a_surrogate_pair_refuses_only_its_input(half: Any) -> None:
    """A lone surrogate in JSON is an error of its input, which is named, for one task and for several."""
    for parse_request in (
        parsed,
        lambda *args, **rest: parsed_for_tasks(["mood", "entities"][1:], *args[1:], **rest)[1],
    ):
        found = parse_request("entities", ["ok", half], errors="per_item")
        assert found.items[0] == Input("ok")
        assert fields_of(found.items[1])[0].startswith("inputs[1]")
        with pytest.raises(InvalidInput) as refused:
            parse_request("entities", ["ok", half])
        assert fields_of(refused.value)[0].startswith("inputs[1]")
        refused.value.errors[0].field.encode()


@pytest.mark.parametrize(
    "rest", [{"options": {"\ud83d": 1}}, {"errors": "\ud83d"}, {"\ud83d": 1}, {"inputs": float("nan")}]
)
def test_half_of_a_surrogate_pair_elsewhere_is_refused(rest: dict[str, Any]) -> None:
    """A lone surrogate outside the inputs, or beside JSON that is none, refuses the request, and the error can be sent."""
    body = json.dumps({"inputs": [HALF], **rest}).encode()
    with pytest.raises(InvalidInput) as refused:
        parse(TASKS["mood"], body, max_inputs=8, max_candidates=4)
    for error in refused.value.errors:
        f"{error.field} {error.message}".encode()


@pytest.mark.parametrize(
    "blank", ["", " ", "\u00a0", "\u200b", "\ufeff", " \u200d\u2060", "\u00ad", "\ufe0f", "\u3164"]
)
def test_a_text_with_nothing_to_see_is_blank(blank: str) -> None:
    """Blanks and zero-width characters alone are refused like an empty text; beside a letter they are part of the text."""
    for task, item in (
        ("mood", blank),
        ("entities", {"text": blank}),
        ("closeness", {"text": "a", "text_pair": blank}),
    ):
        with pytest.raises(InvalidInput, match=r"."):
            parsed(task, [item])
    assert parsed("mood", [f"a{blank}"]).items == [Input(f"a{blank}")]


def test_a_word_may_be_an_invisible_sign() -> None:
    """Words that are given may be zero-width signs, as data sets have them; blank words are refused."""
    assert len(parsed("entities", [{"tokens": ["\u2764", "\ufe0f"]}]).items) == 1
    with pytest.raises(InvalidInput):
        parsed("entities", [{"tokens": ["a", " "]}])


def test_invalid_items_are_replaced_by_their_errors_if_requested() -> None:
    """With `per_item` each invalid input becomes an error with its index, and the valid ones are parsed as usual."""
    good = {"query": "q", "candidates": ["a"]}
    bad = [good, {"query": "q"}, 5, {"query": " ", "candidates": []}, {"query": "q", "candidates": ["a"] * 5}]
    found = parsed("relevance", bad, errors="per_item").items
    assert found[0] == Input("q", candidates=("a",))
    assert [fields_of(refused) for refused in found[1:]] == [
        ["inputs[1].candidates"],
        ["inputs[2]"],
        ["inputs[3].query", "inputs[3].candidates"],
        ["inputs[4].candidates"],
    ]
    with pytest.raises(InvalidInput) as refused:
        parsed("relevance", bad)
    assert fields_of(refused.value)[0] == "inputs[1].candidates"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"errors": "per_item"}', b'{"inputs": [], "errors": "per_item"}'])
def test_a_body_without_inputs_fails_as_a_whole(body: bytes) -> None:
    """`per_item` does not apply to a body that has no inputs, or too many."""
    with pytest.raises(InvalidInput):
        parse(TASKS["mood"], body, max_inputs=8, max_candidates=4)
    with pytest.raises(TooManyInputs):
        parsed("mood", [1] * 9, errors="per_item")


def test_inputs_must_fit_all_of_several_tasks() -> None:
    """Inputs must fit every task; tasks with different input fields are refused, with the fields of each."""
    names, found = parsed_for_tasks(["entities", "mood", "topics"], ["a", {"text": "b"}])
    assert names == ["entities", "mood", "topics"]
    assert found.items == [Input("a"), Input("b")]
    assert parsed_for_tasks(["entities"], [{"tokens": ["a", "b"]}])[1].items == [Input.from_words(["a", "b"])]
    with pytest.raises(InvalidInput, match="an input of 'mood' has text"):
        parsed_for_tasks(["entities", "mood"], [{"tokens": ["a"]}])
    with pytest.raises(InvalidInput) as refused:
        parsed_for_tasks(["mood", "closeness", "topics"], ["a"])
    (error,) = refused.value.errors
    assert error.field == "tasks"
    assert error.message.endswith("'mood' reads text; 'closeness' reads text and text_pair")


def test_tasks_must_be_there_once() -> None:
    """An unknown task is 404 as in a path; a task twice, or no task, is malformed."""
    with pytest.raises(UnknownTask, match="did you mean 'mood'"):
        parsed_for_tasks(["topics", "mod"], ["a"])
    with pytest.raises(InvalidInput, match=r"tasks\[1\]: 'mood' is there twice"):
        parsed_for_tasks(["mood", "mood"], ["a"])
    nothing: list[Any] = [[], "mood", None]
    for tasks in nothing:
        with pytest.raises(InvalidInput, match="tasks"):
            parsed_for_tasks(tasks, ["a"])


def test_errors_per_item_work_for_several_tasks() -> None:
    """An item that is invalid for one of several tasks is invalid for all of them."""
    _, found = parsed_for_tasks(["mood", "topics"], ["a", 5], errors="per_item")
    assert found.items[0] == Input("a")
    assert fields_of(found.items[1]) == ["inputs[1]"]


def test_a_body_of_too_many_errors_is_refused_as_a_whole() -> None:
    """Thousands of errors are counted but not explained, which would take longer than everything else."""
    with pytest.raises(InvalidInput, match=r"^body: has 5000 errors") as refused:
        parsed("mood", [""] * 5000)
    assert fields_of(refused.value) == ["body"]


def test_what_is_repeated_of_a_name_is_bounded() -> None:
    """The error of an unknown field has the beginning of its name: the client knows the rest, however long."""
    name = "n" * 100_000
    for rest in ({name: 1}, {"options": {name: 1}}):
        with pytest.raises(InvalidInput, match=r"nnn: is not a field") as refused:
            parsed("mood", ["a"], **rest)
        assert len(refused.value.detail) < 1000
    with pytest.raises(InvalidInput, match=r"nnn: is not a field") as refused:
        parsed("mood", [{"text": "a", name: 1}])
    assert len(refused.value.errors[0].field) < 1000
