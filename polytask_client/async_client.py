"""Client for asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from polytask_client.answers import Answer, Failed, Prediction, TaskList, TasksPrediction
from polytask_client.batches import Stream, async_batches
from polytask_client.call_protocol import CallSteps, Send
from polytask_client.calls import Calls
from polytask_client.connection import (
    DEFAULT_URL,
    MAX_RESPONSE_BYTES,
    TRANSPORT_ERRORS,
    connection_options,
    out_of_time,
    timeouts,
    too_large,
    translate_error,
)
from polytask_client.errors import Closed, PolytaskError
from polytask_client.messages import Input, Reply
from polytask_client.progress import async_with_bar
from polytask_client.retries import Retries

_Result = TypeVar("_Result")


class AsyncClient:
    """A client for any number of coroutines. A call without an answer raises PolytaskError.

    The arguments are those of `Client`.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        deadline_s: float = 60.0,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._calls = Calls(retries or Retries(), deadline_s)
        self._http = httpx.AsyncClient(**connection_options(url, api_key), transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    async def predict(
        self,
        task: str,
        inputs: Sequence[Input],
        *,
        options: Mapping[str, Any] | None = None,
        errors: str | None = None,
        deadline_s: float | None = None,
    ) -> Prediction:
        """One answer for each input, in order. `options` and `errors` are sent unchanged."""
        return await self._run_steps(self._calls.within(deadline_s).predict(task, inputs, options, errors))

    async def predict_tasks(
        self,
        tasks: Sequence[str],
        inputs: Sequence[Input],
        *,
        options: Mapping[str, Any] | None = None,
        errors: str | None = None,
        deadline_s: float | None = None,
    ) -> TasksPrediction:
        """The answers of several tasks to the same inputs, in one request."""
        return await self._run_steps(self._calls.within(deadline_s).predict_tasks(tasks, inputs, options, errors))

    def stream(
        self,
        task: str,
        inputs: Iterable[Input | Failed] | AsyncIterable[Input | Failed],
        *,
        batch_size: int = 32,
        concurrency: int = 4,
        options: Mapping[str, Any] | None = None,
        keep_failed: bool = False,
        model: str | None = None,
        deadline_s: float | None = None,
        progress: bool = False,
    ) -> AsyncGenerator[Answer, None]:
        """As `Client.stream`. To stop early, `aclose` the iterator, which cancels its running requests."""
        stream = Stream(task, batch_size, concurrency, options, keep_failed, model)
        return async_with_bar(self._stream(stream, inputs, self._calls.within(deadline_s)), inputs, progress=progress)

    async def tasks(self, *, deadline_s: float | None = None) -> TaskList:
        """The tasks of the served model."""
        return await self._run_steps(self._calls.within(deadline_s).tasks())

    async def ready(self, *, deadline_s: float | None = None) -> bool:
        """Whether the service is ready to answer."""
        return await self._run_steps(self._calls.within(deadline_s).ready())

    async def _stream(
        self, stream: Stream, inputs: Iterable[Input | Failed] | AsyncIterable[Input | Failed], calls: Calls
    ) -> AsyncGenerator[Answer, None]:
        waiting: deque[asyncio.Task[list[Answer]]] = deque()
        try:
            async for batch in async_batches(inputs, stream.batch_size):
                waiting.append(asyncio.create_task(self._run_steps(stream.answers(calls, batch))))
                while waiting and (waiting[0].done() or len(waiting) == stream.concurrency):
                    for answer in await waiting.popleft():
                        yield answer
            while waiting:
                for answer in await waiting.popleft():
                    yield answer
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _run_steps(self, steps: CallSteps[_Result]) -> _Result:
        """Carries out the steps of a call and returns its result."""
        reply: Reply | PolytaskError | None = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as done:
                result: _Result = done.value
                return result
            if isinstance(step, Send):
                reply = await self._send(step)
            else:
                await asyncio.sleep(step.seconds)
                reply = None

    async def _send(self, send: Send) -> Reply | PolytaskError:
        if self._http.is_closed:
            return Closed("the client is closed")
        try:
            async with (
                asyncio.timeout(send.timeout_s),
                self._http.stream(
                    send.method, send.path, headers=send.headers, content=send.content, timeout=timeouts(send.timeout_s)
                ) as response,
            ):
                content = bytearray()
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_RESPONSE_BYTES:
                        return too_large(self._http.base_url)
                return Reply(response.status_code, response.headers, bytes(content))
        except TimeoutError:
            return out_of_time(self._http.base_url)
        except TRANSPORT_ERRORS as error:
            return translate_error(error, self._http.base_url)
