"""Types of the client as a caller's type checker sees them; mypy checks each `assert_type`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import assert_type

import httpx

from polytask_client import Answer, AsyncClient, ClassificationAnswer, Client, Prediction, TasksPrediction


def _label(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"task": "mood", "model": "m/1", "answers": [{"label": "good", "score": 1.0}]})


def test_answers_of_the_client_have_the_type_of_their_kind() -> None:
    """`of(ClassificationAnswer)` gives a tuple of that class, and a stream gives `Answer`s."""
    with Client(transport=httpx.MockTransport(_label)) as client:
        prediction = assert_type(client.predict("mood", ["x"]), Prediction)
        answers = assert_type(prediction.of(ClassificationAnswer), tuple[ClassificationAnswer, ...])
        stream = assert_type(client.stream("mood", ["x"]), Generator[Answer, None, None])
        assert assert_type(answers[0].label, str | None) == "good"
        assert list(stream) == list(answers)


def test_answers_of_the_async_client_have_the_type_of_their_kind() -> None:
    """The client for asyncio has the same types as the blocking one."""

    async def use() -> None:
        async with AsyncClient(transport=httpx.MockTransport(_label)) as client:
            prediction = assert_type(await client.predict("mood", ["x"]), Prediction)
            answers = assert_type(prediction.of(ClassificationAnswer), tuple[ClassificationAnswer, ...])
            stream = assert_type(client.stream("mood", ["x"]), AsyncGenerator[Answer, None])
            assert [answer async for answer in stream] == list(answers)

    asyncio.run(use())


def test_answers_of_several_tasks_have_a_type() -> None:
    """The results of several tasks are `Answer`s by task."""

    def results(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"model": "m/1", "results": {"mood": {"answers": [{"value": 1.0}]}}})

    with Client(transport=httpx.MockTransport(results)) as client:
        prediction = assert_type(client.predict_tasks(["mood"], ["x"]), TasksPrediction)
        answers = assert_type(prediction.results["mood"], tuple[Answer, ...])
        assert answers[0].fields == {"value": 1.0}
