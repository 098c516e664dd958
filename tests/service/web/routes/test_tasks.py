"""The HTTP interface of tasks: requests, answers and problems."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.service.support.doubles import FailingBackend, GatedBackend
from tests.service.support.serving import RawCall, body, hold, serving, until
from tests.support import tiny

pytestmark = pytest.mark.anyio

TASKS = [task.name for task in tiny.tasks()]

SHAPES: dict[str, dict[str, Any]] = {
    "mood": {"label": str, "score": float, "scores": dict},
    "topics": {"labels": list, "scores": dict},
    "closeness": {"value": float},
    "relevance": {"ranking": list},
    "choice": {"choice": int, "text": str, "scores": list},
    "entities": {"entities": list},
    "answer": {"text": str, "start": int, "end": int, "score": float},
}


def problem(response: httpx.Response, status: int, name: str) -> dict[str, Any]:
    """The body of a problem, checked to be one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert found["type"] == f"urn:polytask:{name}"
    assert found["status"] == status
    assert found["title"]
    assert found["detail"]
    return found


@pytest.mark.parametrize("task", TASKS)
async def test_the_example_of_a_task_works(task: str) -> None:
    """Posting a task's example returns one answer of its kind from the served version."""
    async with serving() as service:
        example = (await service.client.get(f"/v1/tasks/{task}")).json()["example"]
        response = await service.client.post(f"/v1/tasks/{task}/predict", json=example)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    assert (found["task"], found["model"]) == (task, "tiny/1")
    (answer,) = found["answers"]
    assert {name: type(value) for name, value in answer.items()} == SHAPES[task] | {
        "tokens": int,
        "dropped_tokens": int,
    }
    rows = 3 if task == "relevance" else 2 if task == "choice" else 1
    assert found["usage"] == {"inputs": 1, "rows": rows, "tokens": answer["tokens"]}


async def test_answers_come_in_the_order_of_the_inputs() -> None:
    """However rows are grouped into batches, the answers of a request are in the order of its inputs."""
    texts = ["good " * (1 + index * 7 % 11) for index in range(40)]
    async with serving(max_rows=4) as service:
        together = (await service.predict("mood", *texts)).json()["answers"]
        alone = [(await service.predict("mood", text)).json()["answers"][0] for text in texts]
    assert [answer["scores"] for answer in together] == [pytest.approx(answer["scores"], abs=1e-4) for answer in alone]


async def test_an_answer_does_not_depend_on_its_batch_mates() -> None:
    """Alone and in a batch of all tasks, every task gives the same answer to the same input."""
    backend = GatedBackend()
    async with serving(backend, max_rows=32, token_budget=10_000) as service:
        examples = {
            task["name"]: task["example"]["inputs"] for task in (await service.client.get("/v1/tasks")).json()["tasks"]
        }
        alone = {task: (await service.predict(task, *inputs)).json() for task, inputs in examples.items()}
        first = await hold(service, backend)
        calls = [asyncio.create_task(service.predict(task, *inputs)) for task, inputs in examples.items()]
        await until(lambda: service.num_waiting() == 10)
        held = len(backend.batches)
        backend.open()
        mixed = dict(zip(examples, [(await call).json() for call in calls], strict=True))
        await first
    assert max(len(set(batch.task_ids.tolist())) for batch in backend.batches[held:]) > 1, "no batch mixed tasks"
    for task in TASKS:
        assert flat(mixed[task]) == pytest.approx(flat(alone[task]), abs=1e-4)


def flat(value: Any) -> list[Any]:
    """The leaves of a JSON value, in order."""
    if isinstance(value, dict):
        return [leaf for entry in value.values() for leaf in flat(entry)]
    return [leaf for entry in value for leaf in flat(entry)] if isinstance(value, list) else [value]


async def test_an_unknown_task_is_404_and_names_the_closest() -> None:
    """Both paths of an unknown task are 404, and the detail names a similar task."""
    async with serving() as service:
        found = problem(await service.predict("mod", "text"), 404, "unknown-task")
        assert "did you mean 'mood'?" in found["detail"]
        problem(await service.client.get("/v1/tasks/nothing"), 404, "unknown-task")


async def test_unknown_paths_and_methods_are_problems() -> None:
    """Refusals by the framework have the same shape as those of the service."""
    async with serving() as service:
        for path in ("/nothing", "/redoc"):
            problem(await service.client.get(path), 404, "not-found")
        refused = await service.client.get("/v1/tasks/mood/predict")
        problem(refused, 405, "method-not-allowed")
        assert refused.headers["allow"] == "POST"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_413(chunked: bool) -> None:
    """The limit holds with a Content-Length and without one."""

    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * 100

    async with serving(max_body_bytes=1000) as service:
        content = chunks() if chunked else b" " * 1001
        problem(await service.client.post("/v1/tasks/mood/predict", content=content), 413, "body-too-large")
        assert (await service.client.post("/v1/tasks/mood/predict", content=body("ok"))).status_code == 200


async def test_too_many_inputs_or_candidates_or_tokens_are_413() -> None:
    """Each limit on one request is a 413 that names the field, and runs nothing."""
    async with serving(max_inputs=3, max_candidates=2, max_waiting_tokens=40) as service:
        found = problem(await service.predict("mood", *["a"] * 4), 413, "too-many-inputs")
        assert found["errors"][0]["field"] == "inputs"
        ranking = {"query": "a", "candidates": ["b"] * 3}
        found = problem(await service.predict("relevance", ranking), 413, "too-many-inputs")
        assert found["errors"][0]["field"] == "inputs[0].candidates"
        problem(await service.predict("mood", *["a b c d e f g h i j k l m n"] * 3), 413, "too-many-inputs")
        assert await service.metric('polytask_inputs_total{task="mood"}') == 0
        assert await service.metric('polytask_rejections_total{reason="too_large",task="mood"}') == 2


async def test_a_full_queue_refuses_the_whole_request() -> None:
    """A request that does not fit is refused whole, and Retry-After says when to retry."""
    backend = GatedBackend()
    async with serving(backend, max_waiting_tokens=16, max_rows=1) as service:
        running = await hold(service, backend)
        waiting = asyncio.create_task(service.predict("mood", "cat sat good the"))
        await until(lambda: service.num_waiting() == 1)
        refused = await service.predict("topics", "cat", "cat", "cat", "paris")
        found = problem(refused, 429, "queue-full")
        assert int(refused.headers["retry-after"]) == found["retry_after_s"] >= 1
        assert service.num_waiting() == 1
        before = len(backend.batches)
        backend.open()
        assert (await running).status_code == (await waiting).status_code == 200
    assert all(batch.task_ids.tolist() == [0] for batch in backend.batches[before - 1 :])


async def test_a_task_over_its_quota_is_refused_and_others_are_not() -> None:
    """A full task queue is a 429 of its own type for that task only; a request larger than the quota is 413."""
    backend = GatedBackend()
    async with serving(backend, task_policies='{"topics": {"max_waiting_tokens": 8}}') as service:
        running = await hold(service, backend)
        problem(await service.predict("topics", "cat", "cat", "paris"), 413, "too-many-inputs")
        waiting = [asyncio.create_task(service.predict("topics", "cat")) for _ in range(2)]
        await until(lambda: service.num_waiting() == 2)
        found = problem(await service.predict("topics", "cat"), 429, "task-quota-full")
        assert found["retry_after_s"] >= 1
        waiting.append(asyncio.create_task(service.predict("mood", "cat")))
        await until(lambda: service.num_waiting() == 3)
        backend.open()
        assert [(await call).status_code for call in (running, *waiting)] == [200] * 4
        assert await service.metric('polytask_rejections_total{reason="task_quota",task="topics"}') == 1


async def test_the_calibrated_budget_is_a_metric() -> None:
    """Without a token budget in the settings it is measured during warm-up."""
    async with serving(token_budget=0, batch_ms=60_000) as service:
        longest = max(task.max_length for task in tiny.tasks())
        assert await service.metric("polytask_batch_token_budget") == 32 * longest
    async with serving(token_budget=777) as service:
        assert await service.metric("polytask_batch_token_budget") == 777


async def test_a_deadline_that_passes_is_504_and_the_rows_are_not_run() -> None:
    """A request that waits longer than its client allows gets 504, and its rows never reach the device."""
    backend = GatedBackend()
    async with serving(backend) as service:
        running = await hold(service, backend)
        before = len(backend.batches)
        late = await service.predict("topics", "cat", "paris", headers={"Polytask-Deadline-Ms": "20"})
        problem(late, 504, "deadline-exceeded")
        backend.open()
        assert (await running).status_code == 200
        assert await service.metric('polytask_dropped_inputs_total{reason="deadline",task="topics"}') == 2
        assert await service.metric('polytask_requests_total{outcome="expired",task="topics"}') == 1
    assert len(backend.batches) == before


@pytest.mark.parametrize("value", ["0", "-5", "soon", "", "1e3", "9" * 30])
async def test_a_deadline_must_be_whole_positive_milliseconds(value: str) -> None:
    """Any other deadline is a 422 that names the header."""
    async with serving() as service:
        found = problem(
            await service.predict("mood", "a", headers={"Polytask-Deadline-Ms": value}), 422, "invalid-input"
        )
    assert "Polytask-Deadline-Ms" in found["errors"][0]["field"]


async def test_a_bad_deadline_is_counted_and_an_unknown_task_is_reported_first() -> None:
    """A malformed header counts as an invalid request of its task, and an unknown task is reported before it."""
    header = {"Polytask-Deadline-Ms": "soon"}
    async with serving() as service:
        problem(await service.predict("nothing", "a", headers=header), 404, "unknown-task")
        problem(await service.predict("mood", "a", headers=header), 422, "invalid-input")
        assert await service.metric('polytask_requests_total{outcome="invalid",task="mood"}') == 1


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_supervisors_may_ask_with_head(path: str) -> None:
    """HEAD has the status and headers of GET."""
    async with serving() as service:
        head, get = await service.client.head(path), await service.client.get(path)
    assert head.status_code == get.status_code == 200
    assert head.headers["content-type"] == get.headers["content-type"]


async def test_the_rows_of_a_disconnected_client_are_not_run() -> None:
    """Rows of a client that has disconnected leave the queue before they are run."""
    backend = GatedBackend()
    async with serving(backend) as service:
        running = await hold(service, backend)
        before = len(backend.batches)
        call = RawCall(service, "topics", body("cat", "paris"))
        dropped = asyncio.create_task(call.run())
        await until(lambda: service.num_waiting() == 2)
        call.hung_up.set()
        await dropped
        assert service.num_waiting() == 0
        backend.open()
        await running
        assert await service.metric('polytask_dropped_inputs_total{reason="disconnect",task="topics"}') == 2
        assert await service.metric('polytask_requests_total{outcome="cancelled",task="topics"}') == 1
    assert len(backend.batches) == before


async def test_during_warm_up_the_service_is_live_but_not_ready() -> None:
    """During warm-up the service is live, not ready, and refuses predictions; descriptions and metrics are available."""
    backend = GatedBackend()
    backend.shut()
    async with serving(backend, warm=False) as service:
        await until(lambda: bool(backend.batches))
        assert (await service.client.get("/livez")).json() == {"status": "live"}
        refused = await service.client.get("/readyz")
        problem(refused, 503, "not-ready")
        assert refused.headers["retry-after"] == "1"
        problem(await service.predict("mood", "a"), 503, "not-ready")
        assert len((await service.client.get("/v1/tasks")).json()["tasks"]) == 7
        assert await service.metric("polytask_ready") == 0
        backend.open()
        await until(lambda: service.worker.ready)
        assert (await service.client.get("/readyz")).json() == {"status": "ready"}
        assert (await service.predict("mood", "a")).status_code == 200
        assert await service.metric("polytask_ready") == 1


async def test_new_requests_are_refused_during_shutdown() -> None:
    """A request that arrives during shutdown gets 503; the process is live until it ends."""
    async with serving() as service:
        await asyncio.to_thread(service.worker.stop, 30)
        problem(await service.predict("mood", "a"), 503, "shutting-down")
        problem(await service.client.get("/readyz"), 503, "shutting-down")
        assert (await service.client.get("/livez")).status_code == 200
        assert await service.metric('polytask_rejections_total{reason="draining",task="mood"}') == 1


async def test_one_bad_row_hurts_only_its_own_request() -> None:
    """Of the requests in a batch only the one whose row fails gets an error, and the service stays ready."""
    poison = tiny.VOCABULARY.index("bad")
    backend = FailingBackend(lambda _: False)
    gate = GatedBackend(backend)
    async with serving(gate) as service:
        backend.fails = lambda batch: poison in batch.input_ids
        running = await hold(service, gate)
        calls = [asyncio.create_task(service.predict("mood", text)) for text in ("cat", "good", "bad", "sat")]
        await until(lambda: service.num_waiting() == 4)
        gate.open()
        assert (await running).status_code == 200
        responses = [await call for call in calls]
        found = problem(responses.pop(2), 500, "internal-error")
        assert "does not like" not in json.dumps(found), "the trace stays in the log"
        assert [response.status_code for response in responses] == [200] * 3
        assert (await service.client.get("/readyz")).status_code == 200, "a row that is known to be good still runs"
        assert (await service.predict("mood", "cat")).status_code == 200


async def test_readiness_follows_the_device() -> None:
    """While even the probe row fails the service is not ready, and a request for readiness makes it try again."""
    backend = FailingBackend(lambda _: False)
    async with serving(backend) as service:
        backend.fails = lambda _: True
        problem(await service.predict("mood", "cat"), 500, "internal-error")
        await until(lambda: not service.worker.ready)
        problem(await service.client.get("/readyz"), 503, "not-ready")
        problem(await service.predict("mood", "cat"), 503, "not-ready")
        backend.fails = lambda _: False
        await service.client.get("/readyz")
        await until(lambda: service.worker.ready)
        assert (await service.predict("mood", "cat")).status_code == 200


async def test_a_bug_is_500_and_its_trace_is_in_the_log_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For any bug the client gets a request id, and the log has the traceback under that id."""

    def fail(*_: object) -> None:
        raise KeyError("a secret")

    async with serving() as service:
        monkeypatch.setattr("polytask.service.prediction.prepared_request.answer", fail)
        monkeypatch.setattr(service.worker.queue, "waiting", fail)
        for response in (await service.predict("mood", "cat"), await service.client.get("/metrics")):
            found = problem(response, 500, "internal-error")
            assert "secret" not in response.text
            (record,) = (record for record in caplog.records if found["request_id"] in record.getMessage())
            assert "builtins.KeyError" in record.getMessage()
            assert "in fail\n" in record.getMessage()
        assert (await service.client.get("/readyz")).status_code == 200


async def test_truncation_is_visible() -> None:
    """An answer has the numbers of tokens read and dropped, and the metrics count truncations."""
    async with serving() as service:
        found = (await service.predict("mood", "cat", "cat " * 40, "sat")).json()
        assert [(answer["tokens"], answer["dropped_tokens"]) for answer in found["answers"]] == [
            (3, 0),
            (32, 10),
            (3, 0),
        ]
        assert await service.metric('polytask_truncated_inputs_total{task="mood"}') == 1
        assert await service.metric('polytask_truncated_tokens_total{task="mood"}') == 40 - 30


async def test_the_response_has_the_time_of_each_stage() -> None:
    """The header Server-Timing has every stage."""
    async with serving() as service:
        timing = (await service.predict("mood", "cat")).headers["server-timing"]
    assert [stage.split(";")[0] for stage in timing.split(", ")] == ["tokenize", "queue", "forward", "postprocess"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["inputs", "text", "text_pair", "tokens", "query", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


async def test_no_body_causes_a_server_error() -> None:
    """Whatever bytes or JSON a client sends to any task, the response is never a 5xx."""
    async with serving() as service:
        loop = asyncio.get_running_loop()

        @settings(deadline=None, max_examples=150)
        @given(
            st.sampled_from(TASKS),
            st.one_of(
                st.binary(max_size=40),
                json_values.map(lambda value: json.dumps(value).encode()),
                st.lists(json_values, max_size=3).map(lambda inputs: body(*inputs)),
            ),
        )
        def post(task: str, content: bytes) -> None:
            call = service.client.post(f"/v1/tasks/{task}/predict", content=content)
            response = asyncio.run_coroutine_threadsafe(call, loop).result()
            assert response.status_code in {200, 413, 422}, response.text
            assert response.status_code == 200 or response.headers["content-type"] == "application/problem+json"

        await asyncio.to_thread(post)


@pytest.mark.parametrize(
    "content",
    [b'{"inputs": ["\\ud800"]}', b'{"inputs": ["a\\u0000b"]}', b'{"inputs": ["\\u0000"]}', b"\xff\xfe", b"[" * 9999],
)
@pytest.mark.parametrize("task", ["mood", "entities"])
async def test_unusual_characters_cause_no_server_error(task: str, content: bytes) -> None:
    """Lone surrogates and invalid UTF-8 are 422, NUL is an ordinary character, and nothing is a 5xx."""
    async with serving() as service:
        response = await service.client.post(f"/v1/tasks/{task}/predict", content=content)
    assert response.status_code == (200 if b"u0000" in content else 422)
