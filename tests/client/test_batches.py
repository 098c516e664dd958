"""Streams of all sizes: order, number of running requests, and how far ahead the inputs are read."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
from hypothesis import given
from hypothesis import strategies as st

from polytask_client import AsyncClient, Client

sizes = st.integers(1, 6)
# In milliseconds, a batch each in turn: which of those under way is answered first is anybody's guess.
delays = st.lists(st.integers(0, 3), min_size=1, max_size=5)


class Source:
    """Numbers as texts, with a count of those that were read."""

    def __init__(self, number: int) -> None:
        self.number, self.read = number, 0

    def __iter__(self) -> Iterator[str]:
        for number in range(self.number):
            self.read += 1
            yield str(number)


class Numbers:
    """Answers numbers with their values after a delay, and counts the requests that run at once."""

    def __init__(self, delays_ms: list[int]) -> None:
        self.delays_ms, self.lock, self.now, self.most_at_once, self.asked = delays_ms, threading.Lock(), 0, 0, 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        delay_s = self.begin()
        time.sleep(delay_s)
        return self.end(request)

    async def on_asyncio(self, request: httpx.Request) -> httpx.Response:
        """As `__call__`, without blocking."""
        await asyncio.sleep(self.begin())
        return self.end(request)

    def begin(self) -> float:
        """Counts a request, and returns its delay in seconds."""
        with self.lock:
            self.now, self.asked = self.now + 1, self.asked + 1
            self.most_at_once = max(self.most_at_once, self.now)
            return self.delays_ms[self.asked % len(self.delays_ms)] / 1000

    def end(self, request: httpx.Request) -> httpx.Response:
        """The response to a request that is over."""
        with self.lock:
            self.now -= 1
        answers = [{"value": float(text)} for text in json.loads(request.content)["inputs"]]
        return httpx.Response(200, json={"task": "number", "model": "numbers/1", "answers": answers})


@given(st.integers(0, 40), sizes, sizes, delays)
def test_a_stream_keeps_order_and_bounds(number: int, batch_size: int, concurrency: int, delays_ms: list[int]) -> None:
    """Every input is answered once, in order; running requests and inputs read ahead stay within the given bounds."""
    source, service = Source(number), Numbers(delays_ms)
    with Client(transport=httpx.MockTransport(service)) as client:
        for index, answer in enumerate(client.stream("number", source, batch_size=batch_size, concurrency=concurrency)):
            assert answer.fields == {"value": index}
            assert source.read - index <= batch_size * concurrency
    assert source.read == number
    assert service.most_at_once <= concurrency


@given(st.integers(0, 40), sizes, sizes, delays)
def test_an_async_stream_keeps_order_and_bounds(
    number: int, batch_size: int, concurrency: int, delays_ms: list[int]
) -> None:
    """An async stream answers every input once, in order, and stays within the given bounds."""

    async def use() -> tuple[list[Any], int]:
        source, ahead = Source(number), 0
        values: list[Any] = []
        async with AsyncClient(transport=httpx.MockTransport(service.on_asyncio)) as client:
            async for answer in client.stream("number", source, batch_size=batch_size, concurrency=concurrency):
                ahead = max(ahead, source.read - len(values))
                values.append(answer.fields["value"])
        return values, ahead

    service = Numbers(delays_ms)
    values, ahead = asyncio.run(use())
    assert values == list(range(number))
    assert ahead <= batch_size * concurrency
    assert service.most_at_once <= concurrency


def test_what_is_answered_does_not_wait_for_a_slow_source() -> None:
    """Inputs that arrive one by one get their answers before many more have arrived."""
    read = []

    def slow() -> Iterator[str]:
        for number in range(40):
            read.append(number)
            yield str(number)
            time.sleep(0.02)

    with Client(transport=httpx.MockTransport(Numbers([0]))) as client:
        answers = client.stream("number", slow(), batch_size=1, concurrency=1000)
        next(answers)
        assert len(read) < 40
        assert len(list(answers)) == 39
