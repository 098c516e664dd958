"""Both clients: what they send, how they read replies, and when they try again."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest

from polytask_client import (
    AsyncClient,
    BadResponse,
    Client,
    Closed,
    DeadlineExceeded,
    Failed,
    InvalidArgument,
    InvalidInput,
    ModelChanged,
    OutOfTime,
    Overloaded,
    PolytaskError,
    RegressionAnswer,
    Retries,
    ServiceError,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnknownTask,
    Unreachable,
)
from tests.client.support.clients import Take
from tests.client.support.scripted import (
    Asked,
    Handler,
    Step,
    breaks,
    floods,
    hangs,
    numbers,
    problem,
    says,
    scripted,
    trickles,
)

SOON = Retries(first_s=0.001, longest_s=0.001)
PATIENT_S = 60.0


def ask(client: Any) -> Any:
    """Asks for the answer to one number."""
    return client.predict("number", ["1"])


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes POLYTASK_API_KEY from the environment."""
    monkeypatch.delenv("POLYTASK_API_KEY", raising=False)


def test_what_is_sent(take: Take) -> None:
    """A request has inputs, options and `errors` in its body, and key, release and remaining time in its headers."""
    with scripted(numbers()) as server:
        options: dict[str, Any] = {"options": {"top_k": 2}, "errors": "per_item", "deadline_s": 5}
        take(server.url, lambda client: client.predict("a/b ä", ["1"], **options), api_key="secret")
        take(server.url, ask)
    full, plain = server.asked
    assert full.path == "/v1/tasks/a%2Fb%20%C3%A4/predict"
    assert full.body == {"inputs": ["1"], "options": {"top_k": 2}, "errors": "per_item"}
    assert full.headers["authorization"] == "Bearer secret"
    assert full.headers["user-agent"] == f"polytask-client/{version('polytask-client')}"
    assert full.headers["content-type"] == "application/json"
    assert 0 < full.deadline_ms <= 5000
    assert plain.body == {"inputs": ["1"]}
    assert "authorization" not in plain.headers
    assert 5000 < plain.deadline_ms <= 60_000


def test_several_tasks_are_asked_at_once(take: Take) -> None:
    """Several tasks are asked in one request, with answers by task; a single name is refused as a list of names."""
    results = {"a": {"answers": [{"value": 1.0}]}, "b": {"answers": [{"value": 2.0}]}}
    with scripted(says(200, {"model": "m/1", "results": results})) as server:
        found = take(server.url, lambda client: client.predict_tasks(["a", "b"], ["1"], options={"top_k": 2}))
        with pytest.raises(TypeError, match="tasks must be a list of names"):
            take(server.url, lambda client: client.predict_tasks("a", ["1"]))
    assert {task: answers[0].value for task, answers in found.results.items()} == {"a": 1.0, "b": 2.0}
    (asked,) = server.asked
    assert (asked.path, asked.body) == (
        "/v1/predict",
        {"tasks": ["a", "b"], "inputs": ["1"], "options": {"top_k": 2}},
    )
    assert asked.deadline_ms <= 60_000


def test_the_key_comes_from_the_environment(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    """POLYTASK_API_KEY is sent where no other key is given."""
    monkeypatch.setenv("POLYTASK_API_KEY", "hidden")
    with scripted(numbers()) as server:
        take(server.url, ask)
        take(server.url, ask, api_key="given")
    assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer hidden", "Bearer given"]


def test_a_service_under_a_path(take: Take) -> None:
    """The address of a service may have a path, as behind a proxy."""
    with scripted(numbers()) as server:
        take(f"{server.url}/nlp/", ask)
    assert server.asked[0].path == "/nlp/v1/tasks/number/predict"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://a:b", ""])
def test_an_invalid_address_is_refused_at_once(take: Take, url: str) -> None:
    """An invalid address is refused with an example of a valid one."""
    with pytest.raises(ValueError, match="is not an address of a service"):
        take(url, ask)


@pytest.mark.parametrize("wrong", ["text", {"text": "a"}])
def test_a_single_input_is_refused(take: Take, wrong: Any) -> None:
    """A single text or object is refused where a list of inputs is expected."""
    for use in (lambda client: client.predict("number", wrong), lambda client: client.stream("number", wrong)):
        with pytest.raises(TypeError, match="put a single input in brackets"):
            take("http://127.0.0.1:1", use)


class Hostile(Exception):
    """An error whose text cannot be had; an input as well."""

    def __str__(self) -> str:
        raise self


class Raising(dict[str, Any]):
    """An input that raises when it is looked at."""

    def __init__(self) -> None:
        super().__init__(text="a")

    def items(self) -> Any:
        """Raises."""
        raise Hostile


def circular() -> dict[str, Any]:
    """An input that contains itself."""
    value: dict[str, Any] = {}
    value["text"] = value
    return value


def nested(depth: int) -> Any:
    """An input of lists within each other."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


UNSENDABLE = {
    "NaN": float("nan"),
    "infinity in a field": {"text": float("inf")},
    "half a pair": "cut \ud83d",
    "half a pair in a key": {"\ud83d": "a"},
    "bytes": b"text",
    "date": {"text": date(2026, 1, 1)},
    "set": {"a"},
    "circular": circular(),
    "too deep": nested(100_000),
    "key of a dictionary": {("a",): 1},
    "an object without text": Hostile(),
    "a dictionary that raises": Raising(),
}


@pytest.mark.parametrize("wrong", UNSENDABLE.values(), ids=UNSENDABLE)
def test_inputs_that_json_cannot_hold_are_refused_in_their_place(take: Take, wrong: Any) -> None:
    """Such an input is named before anything is sent, and a stream that keeps failed ones answers all the others."""
    with scripted(numbers()) as server:
        with pytest.raises(InvalidInput, match="cannot be sent as JSON") as refused:
            take(server.url, lambda client: client.predict("number", ["1", wrong]))
        assert [error.field for error in refused.value.problem.errors] == ["inputs[1]"]
        assert server.asked == []
        inputs = ["1", wrong, "3", "no number", "5"]
        answers = take(server.url, lambda client: client.stream("number", inputs, keep_failed=True, batch_size=4))
        assert [getattr(answer, "value", None) for answer in answers] == [1.0, None, 3.0, None, 5.0]
        assert "cannot be sent as JSON" in answers[1].problem.detail
        with pytest.raises(InvalidInput):
            take(server.url, lambda client: client.stream("number", inputs))


def test_an_error_of_the_inputs_themselves_stays_what_it_is(take: Take) -> None:
    """What an iterable raises is the caller's own error and reaches the caller unchanged."""

    def broken() -> Iterator[str]:
        yield "1"
        raise Hostile

    with scripted(numbers()) as server:
        for use in (
            lambda client: client.predict("number", broken()),
            lambda client: client.stream("number", broken(), keep_failed=True),
        ):
            with pytest.raises(Hostile):
                take(server.url, use)


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.predict(None, ["1"]),
        lambda client: client.predict("\ud83d", ["1"]),
        lambda client: client.predict("number", None),
        lambda client: client.predict("number", ["1"], options=[1]),
        lambda client: client.predict("number", ["1"], options={"top_k": float("nan")}),
        lambda client: client.predict("number", ["1"], errors=b"fail"),
        lambda client: client.predict("number", ["1"], deadline_s="5"),
        lambda client: client.predict("number", ["1"], deadline_s=float("nan")),
        lambda client: client.predict("number", ["1"], deadline_s=float("inf")),
        lambda client: client.predict_tasks(5, ["1"]),
        lambda client: client.predict_tasks([b"number"], ["1"]),
        lambda client: client.stream("number", 5),
        lambda client: client.stream("number", ["1"], batch_size=1.5),
    ],
)
def test_a_wrong_argument_is_an_error_of_the_client(take: Take, use: Any) -> None:
    """An argument that no request can be made of is an InvalidArgument, a PolytaskError, and nothing is sent."""
    with scripted(numbers()) as server:
        with pytest.raises(InvalidArgument):
            take(server.url, use)
        assert server.asked == []


@pytest.mark.parametrize(
    ("url", "options"),
    [
        (5, {}),
        ("http://\ud83d", {}),
        ("http://[::1", {}),
        ("http://127.0.0.1:1", {"api_key": "with\nline"}),
        ("http://127.0.0.1:1", {"api_key": "ü"}),
        ("http://127.0.0.1:1", {"deadline_s": None}),
    ],
)
def test_an_address_or_key_that_cannot_be_one_is_an_error_of_the_client(
    take: Take, url: Any, options: dict[str, Any]
) -> None:
    """An address, a key or a deadline that cannot be one is an InvalidArgument, at once."""
    with pytest.raises(InvalidArgument):
        take(url, ask, **options)


def test_a_host_that_no_system_looks_up_is_an_error_of_the_client(take: Take) -> None:
    """A name of a host that is too long is a PolytaskError, whoever refuses it."""
    with pytest.raises(PolytaskError):
        take(f"http://{'a' * 64}.example", ask, retries=Retries(max_tries=1))


ODD_REPLIES = {
    "not JSON": says(200, b"\xff\xfe"),
    "nested too deep": says(200, b"[" * 100_000),
    "not an object": says(200, b"[]"),
    "answers of another type": says(200, {"task": "a", "model": "m", "answers": 5}),
    "an answer that is not an object": says(200, {"task": "a", "model": "m", "answers": [[]]}),
    "fewer answers": says(200, {"task": "a", "model": "m", "answers": []}),
    "broken compression": says(200, b"\x1f\x8b broken", Content_Encoding="gzip"),
    "a redirection": says(302, b"", Location="http://[::1"),
    "nothing": says(204, b""),
    "a problem that is none": says(500, {"status": "x", "errors": [1, None], "retry_after_s": []}),
    "a time that never comes": says(503, b'{"retry_after_s": NaN}', Retry_After="9" * 400),
    "a time without bound": says(503, b'{"retry_after_s": 1' + b"0" * 400 + b"}"),
    "a date that is none": says(429, b"{}", Retry_After="Mon, 99 Foo 999999 99:99:99 GMT"),
    "a length that is none": says(200, b"{}", Content_Length="x"),
}


@pytest.mark.parametrize("reply", ODD_REPLIES.values(), ids=ODD_REPLIES)
def test_whatever_is_replied_is_an_error_of_the_client(take: Take, reply: Step) -> None:
    """A response that is none of this API, or broken, is a PolytaskError."""
    with scripted(reply) as server, pytest.raises(PolytaskError):
        take(server.url, ask, retries=Retries(max_tries=2, first_s=0.001), deadline_s=5)


@pytest.mark.parametrize("reply", [floods, says(200, gzip.compress(b" " * 10_000_000), Content_Encoding="gzip")])
def test_a_response_without_bound_is_not_read(take: Take, reply: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    """A response that never ends, or is large decompressed, is no answer as soon as it is larger than any."""
    for module in ("client", "async_client"):
        monkeypatch.setattr(f"polytask_client.{module}.MAX_RESPONSE_BYTES", 1_000_000)
    with scripted(reply) as server, pytest.raises(BadResponse, match="has more than"):
        take(server.url, ask)


def test_a_closed_client_says_so() -> None:
    """A call of a client that was closed is an error of the client."""

    async def closed() -> None:
        client = AsyncClient("http://127.0.0.1:1")
        await client.close()
        await client.predict("number", ["1"])

    client = Client("http://127.0.0.1:1")
    client.close()
    with pytest.raises(Closed):
        client.predict("number", ["1"])
    with pytest.raises(Closed):
        asyncio.run(closed())


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, Unauthorized),
        (403, Unauthorized),
        (404, UnknownTask),
        (413, TooLarge),
        (422, InvalidInput),
        (429, Overloaded),
        (500, ServiceError),
        (502, Unavailable),
        (503, Unavailable),
        (504, DeadlineExceeded),
        (418, ServiceError),
    ],
)
def test_a_problem_is_an_error_of_its_status(take: Take, status: int, error: type[ServiceError]) -> None:
    """A problem is raised as the error of its status, with all fields that the service sent."""
    wrong = {"field": "inputs[0]", "message": "must not be blank"}
    step = problem(status, "Some title", errors=[wrong], retry_after_s=7, request_id="r1", new="field")
    with scripted(step) as server, pytest.raises(error, match=rf"Some title \({status}\): not now") as raised:
        take(server.url, ask, retries=Retries(max_tries=1))
    assert type(raised.value) is error
    found = raised.value.problem
    assert (found.type, found.title, found.status, found.detail) == (
        "urn:polytask:busy",
        "Some title",
        status,
        "not now",
    )
    assert (found.errors[0].field, found.errors[0].message) == ("inputs[0]", "must not be blank")
    assert (found.retry_after_s, found.request_id) == (7, "r1")


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"", b"[1]", b'{"errors": 3, "status": "x"}'])
def test_an_error_page_of_a_proxy_is_a_service_error(take: Take, body: bytes) -> None:
    """An error page of a proxy is raised as the error of its status."""
    with scripted(says(500, body)) as server, pytest.raises(ServiceError) as raised:
        take(server.url, ask)
    assert raised.value.problem.status == 500


@pytest.mark.parametrize(
    "body",
    [
        b"hello",
        {"task": "number"},
        {"task": "number", "model": "m/1", "answers": [{"value": 1}, {"value": 2}]},
        {"task": "number", "model": "m/1", "answers": [3]},
        {"task": "number", "model": "m/1", "answers": [{"label": "x"}]},
    ],
)
def test_a_success_that_is_no_answer_is_an_error(take: Take, body: Any) -> None:
    """A successful response that does not follow the API is refused, as another server may have sent it."""
    with scripted(says(200, body)) as server, pytest.raises(BadResponse):
        take(server.url, ask)


@pytest.mark.parametrize("step", [problem(429), problem(502), problem(503), problem(504), breaks])
def test_temporary_errors_are_tried_again(take: Take, step: Step) -> None:
    """Temporary refusals and broken connections are tried again, each time with the remaining deadline."""
    with scripted(step, step, numbers()) as server:
        assert take(server.url, ask, retries=SOON).answers[0].value == 1.0
    deadlines = [asked.deadline_ms for asked in server.asked]
    assert len(deadlines) == 3
    assert deadlines == sorted(deadlines, reverse=True)
    assert deadlines[2] < deadlines[0]


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500])
def test_final_errors_are_not_tried_again(take: Take, status: int) -> None:
    """A request that is refused for good is not sent again."""
    with scripted(problem(status, retry_after_s=1)) as server, pytest.raises(ServiceError):
        take(server.url, ask)
    assert len(server.asked) == 1


def test_retry_after_is_honoured(take: Take) -> None:
    """A refused call waits at least as long as Retry-After says."""
    with scripted(problem(429, retry_after_s=1), numbers()) as server:
        before = time.monotonic()
        take(server.url, ask, retries=SOON)
        assert time.monotonic() - before >= 1


def test_a_wait_past_the_deadline_is_not_begun(take: Take) -> None:
    """If the next wait would pass the deadline, the last error is raised at once, with the number of tries."""
    with scripted(problem(503), problem(429, retry_after_s=3600)) as server, pytest.raises(Overloaded) as raised:
        take(server.url, ask, deadline_s=PATIENT_S, retries=SOON)
    assert len(server.asked) == 2
    assert "tried 2 times" in raised.value.__notes__[0]


def test_tries_are_counted(take: Take) -> None:
    """A call is tried at most `max_tries` times, also if there is time for more."""
    with scripted(problem(503)) as server, pytest.raises(Unavailable):
        take(server.url, ask, retries=Retries(max_tries=3, first_s=0.001))
    assert len(server.asked) == 3


@pytest.mark.parametrize("step", [hangs, trickles])
def test_the_deadline_ends_every_try(take: Take, step: Step) -> None:
    """The deadline ends a try whose response never starts and one whose response never ends."""
    with scripted(step) as server, pytest.raises(OutOfTime):
        take(server.url, lambda client: client.predict("number", ["1"], deadline_s=0.2))
    assert len(server.asked) == 1


def test_an_unreachable_service_is_named(take: Take) -> None:
    """A refused connection is tried again, and the final error names the address."""
    with scripted(numbers()) as server:
        gone = server.url
    with pytest.raises(Unreachable, match=gone) as raised:
        take(gone, ask, retries=Retries(max_tries=2, first_s=0.001))
    assert "tried 2 times" in raised.value.__notes__[0]
    assert take(gone, lambda client: client.ready()) is False


def test_a_deadline_of_zero_is_refused(take: Take) -> None:
    """A deadline of zero is refused, for a client as for a call."""
    with pytest.raises(ValueError, match="deadline_s must be more than 0"):
        take("http://127.0.0.1:1", ask, deadline_s=0)
    with pytest.raises(ValueError, match="deadline_s must be more than 0"):
        take("http://127.0.0.1:1", lambda client: client.predict("number", ["1"], deadline_s=-1))


def test_a_stream_is_sent_in_batches(take: Take) -> None:
    """A stream sends one request for each batch, and its answers are in the order of the inputs."""
    with scripted(numbers()) as server:
        answers = take(server.url, lambda client: client.stream("number", map(str, range(10)), batch_size=4))
    assert [answer.value for answer in answers] == list(range(10))
    assert sorted(len(asked.body["inputs"]) for asked in server.asked) == [2, 4, 4]


def test_a_batch_that_is_too_large_is_divided(take: Take) -> None:
    """A batch that is too large is divided until the service accepts its parts, and each input is answered once."""
    with scripted(numbers(limit=3)) as server:
        answers = take(server.url, lambda client: client.stream("number", map(str, range(20)), batch_size=20))
    assert [answer.value for answer in answers] == list(range(20))


def test_a_refused_input_ends_a_stream(take: Take) -> None:
    """Without `keep_failed` a refused input ends the stream with an error that has the input's index in its batch."""
    with scripted(numbers()) as server, pytest.raises(InvalidInput, match=r"inputs\[1\]: must be a number"):
        take(server.url, lambda client: client.stream("number", ["1", "x", "3"]))


def test_a_refused_input_may_have_its_place_among_the_answers(take: Take) -> None:
    """With `keep_failed` the problem of a refused input does not depend on its batch, and a failed input is not sent."""
    inputs: list[Any] = ["0", "x", "2", "y", "z", "5", "", "7"]

    def stream(size: int) -> Any:
        return lambda client: client.stream("number", inputs, keep_failed=True, batch_size=size)

    with scripted(numbers()) as server:
        answers = take(server.url, stream(8))
        assert answers == take(server.url, stream(1)) == take(server.url, stream(3))
        failed = next(answer for answer in answers if isinstance(answer, Failed))
        inputs = [failed, "1", failed]
        assert take(server.url, stream(2)) == [failed, RegressionAnswer(1.0, fields={}), failed]
        assert server.asked[-1].body == {"inputs": ["1"]}
    kinds = [type(answer) for answer in answers]
    assert [index for index, kind in enumerate(kinds) if kind is Failed] == [1, 3, 4, 6]
    assert [answer.value for answer in answers if isinstance(answer, RegressionAnswer)] == [0, 2, 5, 7]
    assert {answer.problem.detail for answer in answers if isinstance(answer, Failed)} == {
        "inputs[0]: must be a number"
    }


@pytest.mark.parametrize("errors", [[], [{"field": "options.top_k", "message": "is not a field"}]])
def test_a_request_that_is_wrong_as_a_whole_ends_a_stream(take: Take, errors: list[Any]) -> None:
    """A refusal that names no input ends the stream, also with `keep_failed`."""
    with scripted(problem(422, errors=errors)) as server, pytest.raises(InvalidInput):
        take(server.url, lambda client: client.stream("number", ["1", "2"], keep_failed=True))
    assert len(server.asked) == 1


def test_a_stream_can_ask_for_a_model(take: Take) -> None:
    """A stream that expects a model ends with an error if another one answers."""
    with scripted(numbers()) as server:
        assert take(server.url, lambda client: client.stream("number", ["1"], model="numbers/1"))
        with pytest.raises(ModelChanged, match="expected answers of numbers/2"):
            take(server.url, lambda client: client.stream("number", ["1"], model="numbers/2"))


def test_an_endless_stream_can_be_closed() -> None:
    """A stream can be closed early, also while its requests never end."""

    def first_only(handler: Handler, asked: Asked) -> None:
        (numbers() if asked.body["inputs"] == ["0"] else hangs)(handler, asked)

    async def use(url: str) -> None:
        async with AsyncClient(url) as client:
            answers = client.stream("number", map(str, itertools.count()), batch_size=1)
            assert await anext(answers) == RegressionAnswer(0.0, fields={})
            await answers.aclose()
            assert len(asyncio.all_tasks()) == 1

    with scripted(first_only) as server:
        with Client(server.url) as client:
            answers = client.stream("number", map(str, itertools.count()), batch_size=1)
            assert next(answers) == RegressionAnswer(0.0, fields={})
            answers.close()
        asyncio.run(use(server.url))


def test_connections_outlive_a_client_only_as_long_as_they_are_in_use() -> None:
    """A request that a closed stream has left running may end; then all connections are closed, and no request is begun."""
    asked, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    class Transport(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if json.loads(request.content)["inputs"] == ["0"]:
                assert asked.wait(PATIENT_S)
            else:
                asked.set()
                assert go_on.wait(PATIENT_S)
                assert not closed.is_set()
            answer = {"task": "number", "model": "numbers/1", "answers": [{"value": 0}]}
            return httpx.Response(200, json=answer)

        def close(self) -> None:
            closed.set()

    client = Client(transport=Transport())
    answers = client.stream("number", ["0", "1"], batch_size=1)
    next(answers)
    answers.close()
    client.close()
    assert not closed.is_set()
    with pytest.raises(RuntimeError, match="the client is closed"):
        ask(client)
    go_on.set()
    assert closed.wait(PATIENT_S)


def test_an_async_stream_reads_async_inputs() -> None:
    """An async stream reads async iterables as well as ordinary ones."""

    async def texts() -> AsyncIterator[str]:
        for number in range(7):
            await asyncio.sleep(0)
            yield str(number)

    async def use(url: str) -> list[Any]:
        async with AsyncClient(url) as client:
            return [answer async for answer in client.stream("number", texts(), batch_size=3, progress=True)]

    with scripted(numbers()) as server:
        assert [answer.value for answer in asyncio.run(use(server.url))] == list(range(7))


def test_a_failed_source_ends_a_stream(take: Take) -> None:
    """An error of the inputs' iterator ends the stream."""

    def texts() -> Any:
        yield "1"
        raise OSError("the disk is gone")

    with scripted(numbers()) as server, pytest.raises(OSError, match="the disk is gone"):
        take(server.url, lambda client: client.stream("number", texts(), batch_size=1))


def test_sizes_of_a_stream_are_at_least_one(take: Take) -> None:
    """A batch size or concurrency of zero is refused by name."""
    for name in ("batch_size", "concurrency"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            take("http://127.0.0.1:1", lambda client, name=name: client.stream("number", [], **{name: 0}))


def test_every_error_is_of_one_family() -> None:
    """A program that catches PolytaskError catches every error that has to do with the service."""
    assert issubclass(OutOfTime, TimeoutError)
    assert all(
        issubclass(error, PolytaskError) for error in (BadResponse, ModelChanged, OutOfTime, ServiceError, Unreachable)
    )


def test_the_client_is_light() -> None:
    """Importing the client loads no library that serves, trains or computes."""
    heavy = {"torch", "numpy", "pydantic", "service", "model", "model_store", "training", "fastapi", "typer"}
    code = f"import sys, polytask_client, polytask_client.job; print(sorted({heavy} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    finished = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert finished.stdout == "[]\n"
