"""Blocking client: each call returns when its answer is there."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from polytask_client.answers import Answer, Failed, Prediction, TaskList, TasksPrediction
from polytask_client.batches import Stream, batches
from polytask_client.call_protocol import CallSteps, Send, Wait
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
from polytask_client.progress import with_bar
from polytask_client.retries import Retries

_Result = TypeVar("_Result")


class Client:
    """A client for any number of threads. A call without an answer raises PolytaskError.

    `deadline_s` bounds each call with all its tries and is sent to the service. `api_key`: by default POLYTASK_API_KEY.
    `transport`: of httpx, for your own proxies or certificates.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        deadline_s: float = 60.0,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._calls = Calls(retries or Retries(), deadline_s)
        self._http = httpx.Client(**connection_options(url, api_key), transport=transport)
        self._open = _OpenWhileInUse(self._http.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections, as soon as requests left by a closed stream have ended."""
        self._open.close()

    def predict(
        self,
        task: str,
        inputs: Sequence[Input],
        *,
        options: Mapping[str, Any] | None = None,
        errors: str | None = None,
        deadline_s: float | None = None,
    ) -> Prediction:
        """One answer for each input, in order. `options` and `errors` are sent unchanged."""
        return self._run_steps(self._calls.within(deadline_s).predict(task, inputs, options, errors))

    def predict_tasks(
        self,
        tasks: Sequence[str],
        inputs: Sequence[Input],
        *,
        options: Mapping[str, Any] | None = None,
        errors: str | None = None,
        deadline_s: float | None = None,
    ) -> TasksPrediction:
        """The answers of several tasks to the same inputs, in one request."""
        return self._run_steps(self._calls.within(deadline_s).predict_tasks(tasks, inputs, options, errors))

    def stream(
        self,
        task: str,
        inputs: Iterable[Input | Failed],
        *,
        batch_size: int = 32,
        concurrency: int = 4,
        options: Mapping[str, Any] | None = None,
        keep_failed: bool = False,
        model: str | None = None,
        deadline_s: float | None = None,
        progress: bool = False,
    ) -> Generator[Answer, None, None]:
        """The answers to any number of inputs, in order, as they arrive; inputs are read as they are needed.

        `Stream` describes the arguments; `deadline_s` is for each batch. `progress` shows a bar on stderr. An input
        that is already a `Failed` is returned in its place. An error that `inputs` raises is raised here as it is, after
        the answers before it. To stop early, close the iterator.
        """
        stream = Stream(task, batch_size, concurrency, options, keep_failed, model)
        return with_bar(self._stream(stream, inputs, self._calls.within(deadline_s)), inputs, progress=progress)

    def tasks(self, *, deadline_s: float | None = None) -> TaskList:
        """The tasks of the served model."""
        return self._run_steps(self._calls.within(deadline_s).tasks())

    def ready(self, *, deadline_s: float | None = None) -> bool:
        """Whether the service is ready to answer."""
        return self._run_steps(self._calls.within(deadline_s).ready())

    def _stream(self, stream: Stream, inputs: Iterable[Input | Failed], calls: Calls) -> Generator[Answer, None, None]:
        stop = threading.Event()
        waiting: deque[Future[list[Answer]]] = deque()

        def ask(batch: list[Input | Failed]) -> Future[list[Answer]]:
            return _in_thread(lambda: self._run_steps(stream.answers(calls, batch), stop))

        try:
            for batch in batches(inputs, stream.batch_size):
                waiting.append(ask(batch))
                # Finished answers do not wait until a slow source has filled the next batch.
                while waiting and (waiting[0].done() or len(waiting) == stream.concurrency):
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            stop.set()

    def _run_steps(self, steps: CallSteps[_Result], stop: threading.Event | None = None) -> _Result:
        """Carries out the steps of a call and returns its result. `stop` ends it before its next step."""
        stop = stop or threading.Event()
        reply: Reply | PolytaskError | None = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as done:
                result: _Result = done.value
                return result
            if stop.wait(step.seconds if isinstance(step, Wait) else 0):
                raise PolytaskError("the stream was closed")
            reply = self._send(step) if isinstance(step, Send) else None

    def _send(self, send: Send) -> Reply | PolytaskError:
        end = time.monotonic() + send.timeout_s
        try:
            with (
                self._open,
                self._http.stream(
                    send.method, send.path, headers=send.headers, content=send.content, timeout=timeouts(send.timeout_s)
                ) as response,
            ):
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if time.monotonic() > end:  # httpx bounds each read, not all of them
                        return out_of_time(self._http.base_url)
                    if len(content) > MAX_RESPONSE_BYTES:
                        return too_large(self._http.base_url)
                return Reply(response.status_code, response.headers, bytes(content))
        except TRANSPORT_ERRORS as error:
            return translate_error(error, self._http.base_url)


class _OpenWhileInUse:
    """Calls `close_now` once it is closed and no thread is inside any more. Entering it after that raises Closed.

    httpx would leave a connection open if its request ends after the client was closed.
    """

    def __init__(self, close_now: Callable[[], None]) -> None:
        self._close_now = close_now
        self._lock = threading.Lock()
        self._inside = 0
        self._closed = False

    def __enter__(self) -> None:
        with self._lock:
            if self._closed:
                raise Closed("the client is closed")
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            last = self._closed and not self._inside
        if last:
            self._close_now()

    def close(self) -> None:
        """Refuses further threads, and calls `close_now` at once if none is inside."""
        with self._lock:
            self._closed = True
            unused = not self._inside
        if unused:
            self._close_now()


def _in_thread(function: Callable[[], _Result]) -> Future[_Result]:
    """The future result of the function, run in a new daemon thread, which need not be waited for."""
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001, it is raised by `result()`
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
