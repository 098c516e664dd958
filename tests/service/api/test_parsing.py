"""Request bodies that say more than their inputs: options, errors by item, several tasks."""

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
    """What a body asks of a task."""
    return parse(TASKS[task], json.dumps({"inputs": inputs, **rest}).encode(), max_inputs=8, max_candidates=4)


def for_tasks(tasks: Any, inputs: list[Any], **rest: Any) -> tuple[list[str], ParsedRequest]:
    """What a body asks of several tasks."""
    body = json.dumps({"tasks": tasks, "inputs": inputs, **rest}).encode()
    return parse_for_tasks(TASKS, body, max_inputs=8, max_candidates=4)


def fields_of(refused: ServiceError | Input) -> list[str]:
    """The fields that a refusal names."""
    assert isinstance(refused, ServiceError)
    return [error.field for error in refused.errors]


def test_options_and_errors_are_read() -> None:
    """They come with the inputs; without them everything is as usual."""
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
    """The error has the path of the option, and says what it must be, for one task and for several."""
    for ask in (lambda: parsed("topics", ["a"], **rest), lambda: for_tasks(["topics", "mood"], ["a"], **rest)):
        with pytest.raises(InvalidInput) as refused:
            ask()
        (error,) = refused.value.errors
        assert error.field == field
        assert message in error.message.replace("tasks and inputs", "inputs")


def test_bad_items_stand_in_their_places_when_that_is_wanted() -> None:
    """Each has its own refusal with its place among the inputs; the good ones are read as ever."""
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
    """There is no item to blame."""
    with pytest.raises(InvalidInput):
        parse(TASKS["mood"], body, max_inputs=8, max_candidates=4)
    with pytest.raises(TooManyInputs):
        parsed("mood", [1] * 9, errors="per_item")


def test_several_tasks_read_what_all_of_them_read() -> None:
    """The inputs must fit each; tasks that never read the same are told so, with what each reads."""
    names, found = for_tasks(["entities", "mood", "topics"], ["a", {"text": "b"}])
    assert names == ["entities", "mood", "topics"]
    assert found.items == [Input("a"), Input("b")]
    assert for_tasks(["entities"], [{"tokens": ["a", "b"]}])[1].items == [Input.from_words(["a", "b"])]
    with pytest.raises(InvalidInput, match="an input of 'mood' has text"):
        for_tasks(["entities", "mood"], [{"tokens": ["a"]}])
    with pytest.raises(InvalidInput) as refused:
        for_tasks(["mood", "closeness", "topics"], ["a"])
    (error,) = refused.value.errors
    assert error.field == "tasks"
    assert error.message.endswith("'mood' reads text; 'closeness' reads text and text_pair")


def test_tasks_must_be_there_once() -> None:
    """An unknown one is 404 as in a path; a task twice, or none, is malformed."""
    with pytest.raises(UnknownTask, match="did you mean 'mood'"):
        for_tasks(["topics", "mod"], ["a"])
    with pytest.raises(InvalidInput, match=r"tasks\[1\]: 'mood' is there twice"):
        for_tasks(["mood", "mood"], ["a"])
    nothing: list[Any] = [[], "mood", None]
    for tasks in nothing:
        with pytest.raises(InvalidInput, match="tasks"):
            for_tasks(tasks, ["a"])


def test_several_tasks_may_want_errors_by_item() -> None:
    """What is wrong with an item is wrong for all of them."""
    _, found = for_tasks(["mood", "topics"], ["a", 5], errors="per_item")
    assert found.items[0] == Input("a")
    assert fields_of(found.items[1]) == ["inputs[1]"]


def test_a_body_of_too_many_errors_is_refused_as_a_whole() -> None:
    """Thousands of wrong parts are counted and not explained: that would take longer than all the rest."""
    with pytest.raises(InvalidInput, match=r"^body: has 5000 errors") as refused:
        parsed("mood", [""] * 5000)
    assert fields_of(refused.value) == ["body"]
