"""Both clients against a real service."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from polytask.service.api.schemas import from_input
from polytask_client import (
    ClassificationAnswer,
    Failed,
    InvalidInput,
    MultilabelAnswer,
    MultipleChoiceAnswer,
    RankingAnswer,
    RegressionAnswer,
    SpanAnswer,
    TaggingAnswer,
    TooLarge,
    Unauthorized,
    UnknownTask,
)
from tests.client.support.clients import Take
from tests.service.support import checkpoints
from tests.support import tiny

KINDS = {
    "mood": ClassificationAnswer,
    "topics": MultilabelAnswer,
    "closeness": RegressionAnswer,
    "relevance": RankingAnswer,
    "choice": MultipleChoiceAnswer,
    "entities": TaggingAnswer,
    "answer": SpanAnswer,
}


def test_every_kind_of_answer_comes_back_as_it_is(take: Take, service: str) -> None:
    """The typed answers have the values of the network, field by field."""
    for task, golden in zip(tiny.tasks(), checkpoints.goldens(), strict=True):
        inputs = [from_input(task, golden.input)]
        prediction = take(service, lambda client, name=task.name, inputs=inputs: client.predict(name, inputs))
        assert (prediction.task, prediction.model, prediction.truncated) == (task.name, "tiny/1", ())
        (answer,) = prediction.of(KINDS[task.name])
        fields = {name: value for name, value in asdict(answer).items() if name in golden.answer}
        assert_alike(golden.answer, fields)


def assert_alike(expected: Any, found: Any) -> None:
    """Asserts equality, with scores equal up to rounding."""
    if isinstance(expected, dict):
        # Of entities in texts the client has None for the words that only entities of `tokens` have.
        assert set(expected) == {name for name, value in found.items() if value is not None}
        expected, found = list(expected.values()), [found[name] for name in expected]
    if isinstance(expected, (list, tuple)):
        assert len(expected) == len(found)
        for one, other in zip(expected, found, strict=True):
            assert_alike(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)


def test_what_the_service_says_about_itself(take: Take, service: str) -> None:
    """The service lists its tasks with labels and an example that works, and is ready."""
    assert take(service, lambda client: client.ready()) is True
    found = take(service, lambda client: client.tasks())
    assert found.model == "tiny/1"
    assert list(found.tasks) == [task.name for task in tiny.tasks()]
    mood = found.tasks["mood"]
    assert (mood.kind, mood.labels) == ("classification", ("good", "bad", "neither"))
    assert take(service, lambda client: client.predict("mood", mood.example["inputs"])).answers


def test_refusals_of_the_service(take: Take, service: str) -> None:
    """Each refusal of the service is raised as its class of error, with the service's details."""
    with pytest.raises(UnknownTask, match="did you mean 'mood'"):
        take(service, lambda client: client.predict("moood", ["a"]))
    with pytest.raises(InvalidInput) as raised:
        take(service, lambda client: client.predict("mood", ["a", " "]))
    assert raised.value.problem.errors[0].field == "inputs[1]"
    with pytest.raises(TooLarge, match="the limit is 256"):
        take(service, lambda client: client.predict("mood", ["a"] * 300))


def test_a_service_with_keys(take: Take, service_with_keys: tuple[str, str]) -> None:
    """A service with keys answers callers who have one, and tells everyone whether it is ready."""
    url, key = service_with_keys
    assert take(url, lambda client: client.predict("mood", ["a"]), api_key=key).answers
    for wrong in ("", "wrong"):
        with pytest.raises(Unauthorized):
            take(url, lambda client: client.predict("mood", ["a"]), api_key=wrong)
    assert take(url, lambda client: client.ready(), api_key="") is True


def test_a_stream_survives_limits_and_bad_inputs(take: Take, service: str) -> None:
    """A stream divides batches over the limits, and bad inputs fail alone."""
    inputs = [" " if number % 97 == 0 else "the cat sat" for number in range(600)]
    answers = take(service, lambda client: client.stream("mood", inputs, batch_size=600, keep_failed=True))
    assert [isinstance(answer, Failed) for answer in answers] == [text == " " for text in inputs]
    candidates = [{"query": "a", "candidates": ["b"] * length} for length in (2, 200, 3)]
    answers = take(service, lambda client: client.stream("relevance", candidates, keep_failed=True))
    assert [isinstance(answer, Failed) for answer in answers] == [False, True, False]
