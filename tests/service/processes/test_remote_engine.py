"""Remote engines: a frontend and engines over a real socket, in one process, also when one of them dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from polytask.model.encoding import InputEncoder
from polytask.service.api.task_info import describe_tasks
from polytask.service.backends.contract import Backend
from polytask.service.config.settings import Settings
from polytask.service.engine.build import build_worker
from polytask.service.engine.worker import Worker
from polytask.service.observability.metrics import Metrics, WorkerMetrics
from polytask.service.prediction.predictor import Predictor
from polytask.service.processes.engine import EngineServer
from polytask.service.processes.remote_engine import RemoteEngineClient
from polytask.service.scheduling.queue import Full
from polytask.service.versions.served import FixedVersion, ServedVersion
from polytask.service.web.application import application
from tests.service.support import checkpoints
from tests.service.support.doubles import FailingBackend, GatedBackend, real_backend
from tests.service.support.serving import RawCall, Service, body, hold, serving, until
from tests.support import tiny

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """These engines say nothing by themselves; only the test that waits for it finds that they hang."""
    monkeypatch.setattr("polytask.service.processes.remote_engine.HUNG_S", float("inf"))


@dataclass
class Engine:
    """A worker remote a socket, with its metrics."""

    worker: Worker
    endpoint: EngineServer
    metrics: Metrics
    server: asyncio.Server
    ends: list[Any]

    def die(self) -> None:
        """Cuts all connections and accepts no new ones."""
        self.server.close()
        for end in self.ends:
            end.close()

    def sample(self, name: str) -> float:
        """The value of a sample, by its name and labels as on the page."""
        lines = self.metrics.page().decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


@contextlib.asynccontextmanager
async def engine(socket: Path, backend: Backend, **settings: Any) -> AsyncIterator[Engine]:
    """An engine that is ready; its connections are cut at the end."""
    loop, checkpoint = asyncio.get_running_loop(), checkpoints.in_memory()
    metrics = Metrics(checkpoint.manifest.tasks)
    encoder, worker_metrics = InputEncoder(tiny.tokenizer()), WorkerMetrics(metrics, checkpoint.manifest.tasks)
    worker = build_worker(checkpoint, encoder, Settings(**settings), backend, worker_metrics)
    endpoint = EngineServer(worker, loop)
    ends: list[Any] = []

    def connect() -> Any:
        ends.append(endpoint.connect())
        return ends[-1]

    server = await loop.create_unix_server(connect, str(socket))
    remote = Engine(worker, endpoint, metrics, server, ends)
    worker.start()
    try:
        await until(lambda: worker.ready)
        endpoint.broadcast_status(ready=True, speed=100.0)
        yield remote
    finally:
        remote.die()
        assert await asyncio.to_thread(worker.stop, 30)


@contextlib.asynccontextmanager
async def frontend(engines: dict[Path, Engine], **settings: Any) -> AsyncIterator[tuple[Service, RemoteEngineClient]]:
    """A frontend connected to these engines."""
    manifest = checkpoints.in_memory().manifest
    encoder, chosen = InputEncoder(tiny.tokenizer()), Settings(**settings)
    engine_client, metrics = RemoteEngineClient(list(engines), chosen.max_waiting_tokens), Metrics(manifest.tasks)
    predictor = Predictor(manifest.tasks, encoder, engine_client, metrics.requests, chosen, "tiny/1")
    served = ServedVersion(
        manifest=manifest,
        engine=engine_client,
        predictor=predictor,
        task_info=describe_tasks(manifest, chosen),
        card="# tiny\n",
    )
    app = application(FixedVersion(served), chosen, metrics.requests, metrics.page, engine_client.connected())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        await until(lambda: all(each.endpoint.num_clients for each in engines.values()) and engine_client.ready)
        (worker, *_) = (each.worker for each in engines.values())
        yield Service(app, worker, client), engine_client
    predictor.close()


@contextlib.asynccontextmanager
async def both(tmp_path: Path, backend: Backend, **settings: Any) -> AsyncIterator[tuple[Service, Engine]]:
    """A frontend in front of one engine."""
    socket = tmp_path / "engine.sock"
    async with (
        engine(socket, backend, **settings) as remote,
        frontend({socket: remote}, **settings) as (service, _),
    ):
        yield service, remote


def examples() -> dict[str, Any]:
    """The body of a request for each task."""
    return {
        "mood": ["The cat sat, good.", "bad"],
        "topics": ["A cat in Paris"],
        "closeness": [{"text": "The cat sat.", "text_pair": "A cat sits."}],
        "relevance": [{"query": "Which cat?", "candidates": ["the bad cat", "paris", "a good cat sat"]}],
        "choice": [{"text": "The cat", "choices": ["sat.", "is in Paris."]}],
        "entities": ["The cat sat in Paris.", "a cat"],
        "answer": [{"question": "Who sat?", "context": "In Paris the cat sat."}],
    }


async def test_the_answers_are_those_of_one_process(tmp_path: Path) -> None:
    """For every kind of task the response equals that of one process, byte for byte."""
    async with both(tmp_path, real_backend()) as (service, _), serving() as alone:
        for task, inputs in examples().items():
            found, expected = await service.predict(task, *inputs), await alone.predict(task, *inputs)
            assert found.status_code == 200
            assert found.content == expected.content


async def test_several_tasks_in_one_call_share_their_way(tmp_path: Path) -> None:
    """The rows of several tasks in one call go to one engine as one request, and each counts for its own task."""
    content = {"tasks": ["mood", "entities"], "inputs": ["The cat sat in Paris.", "bad"]}
    async with both(tmp_path, real_backend()) as (service, remote), serving() as alone:
        found, expected = [await each.client.post("/v1/predict", json=content) for each in (service, alone)]
        assert found.status_code == 200
        assert found.content == expected.content
        for task in content["tasks"]:
            assert remote.sample(f'polytask_inputs_total{{task="{task}"}}') == 2


async def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    """A full queue refuses a request whole with 429 and Retry-After, and none of its rows is queued."""
    backend = GatedBackend()
    async with both(tmp_path, backend, max_waiting_tokens=40) as (service, remote):
        running = await hold(service, backend)
        waiting = asyncio.create_task(service.predict("topics", "cat", "paris"))
        await until(lambda: service.num_waiting() == 2)
        refused = await service.predict("mood", *["good"] * 12)
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["retry_after_s"] == int(refused.headers["Retry-After"])
        assert service.num_waiting() == 2
        assert remote.sample('polytask_inputs_total{task="mood"}') == 1
        assert await service.metric('polytask_rejections_total{reason="queue_full",task="mood"}') == 1
        backend.open()
        assert [(await call).status_code for call in (running, waiting)] == [200, 200]


async def test_what_is_more_than_an_engine_takes_is_refused_in_front(tmp_path: Path) -> None:
    """A frontend with as many tokens in flight as an engine queues refuses further requests without tokenising them."""
    backend = GatedBackend()
    socket, settings = tmp_path / "engine.sock", {"max_waiting_tokens": 40}
    async with (
        engine(socket, backend, **settings) as remote,
        frontend({socket: remote}, **settings) as (service, engine_client),
    ):
        running = await hold(service, backend)
        waiting = asyncio.create_task(service.predict("topics", *["cat"] * 8))
        await until(lambda: service.num_waiting() == 8)
        with pytest.raises(Full) as full:
            engine_client.require_room(0, num_tokens=20, before=0, deadline=99)
        assert full.value.wait_s == pytest.approx((27 + 20 - 40) / 100), "27 tokens are in flight, at 100 a second"
        engine_client.require_room(0, num_tokens=1, before=0, deadline=99)
        refused = await service.predict("mood", "good " * 60)
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        backend.open()
        assert [(await call).status_code for call in (running, waiting)] == [200, 200]


async def test_rows_of_a_client_that_has_gone_are_not_run(tmp_path: Path) -> None:
    """Rows of a disconnected client leave the engine's queue and are counted as dropped."""
    backend = GatedBackend()
    async with both(tmp_path, backend) as (service, remote):
        running = await hold(service, backend)
        call = RawCall(service, "topics", body("cat", "paris"))
        dropped = asyncio.create_task(call.run())
        await until(lambda: service.num_waiting() == 2)
        call.hung_up.set()
        await dropped
        await until(lambda: service.num_waiting() == 0)
        batches = len(backend.batches)
        backend.open()
        assert (await running).status_code == 200
        assert (await service.predict("mood", "cat")).status_code == 200
        assert len(backend.batches) == batches + 1
        assert remote.sample('polytask_dropped_inputs_total{reason="disconnect",task="topics"}') == 2


async def test_rows_that_are_late_are_not_run(tmp_path: Path) -> None:
    """A passed deadline is 504, and its rows are dropped and counted once each."""
    backend = GatedBackend()
    async with both(tmp_path, backend) as (service, remote):
        running = await hold(service, backend)
        late = await service.predict("topics", "cat", "paris", headers={"Polytask-Deadline-Ms": "50"})
        assert late.status_code == 504
        await until(lambda: service.num_waiting() == 0)
        batches = len(backend.batches)
        backend.open()
        assert (await running).status_code == 200
        assert (await service.predict("mood", "cat")).status_code == 200
        assert len(backend.batches) == batches + 1
        assert remote.sample('polytask_dropped_inputs_total{reason="deadline",task="topics"}') == 2


async def test_a_failure_in_the_engine_is_logged_in_front(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After a failure in the engine the client gets an id, the frontend's log the engine's traceback, and the next request its answer."""
    backend = FailingBackend(lambda _: False)
    async with both(tmp_path, backend) as (service, _):
        with caplog.at_level(logging.ERROR):
            backend.fails = lambda batch: tiny.VOCABULARY.index("paris") in batch.input_ids
            failed = await service.predict("mood", "paris")
        assert failed.status_code == 500
        assert failed.json()["request_id"] in caplog.text
        assert "the device does not like this batch" in caplog.text
        assert (await service.predict("mood", "cat")).status_code == 200


async def test_an_engine_that_dies_fails_its_rows_at_once_and_its_successor_is_found(tmp_path: Path) -> None:
    """When an engine dies, waiting rows get 503 with Retry-After, and the service is ready again when an engine is back."""
    backend, socket = GatedBackend(), tmp_path / "engine.sock"
    async with contextlib.AsyncExitStack() as first:
        remote = await first.enter_async_context(engine(socket, backend))
        async with frontend({socket: remote}) as (service, engine_client):
            calls = [await hold(service, backend), asyncio.create_task(service.predict("mood", "cat", "paris"))]
            await until(lambda: service.num_waiting() == 2)
            remote.die()
            for call in calls:
                response = await call
                assert response.status_code == 503
                assert response.headers["Retry-After"] == "1"
                assert "died" in response.json()["detail"]
            assert (await service.client.get("/readyz")).status_code == 503
            assert (await service.predict("mood", "cat")).status_code == 503
            backend.open()
            await first.aclose()
            async with engine(socket, real_backend()):
                await until(lambda: engine_client.ready)
                assert (await service.predict("mood", "cat")).status_code == 200


async def test_an_engine_that_says_nothing_is_not_ready_until_it_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests at an engine that says nothing get 503, and its rows are cancelled; with its next word it is ready again."""
    backend = GatedBackend()
    async with both(tmp_path, backend) as (service, remote):
        calls = [await hold(service, backend), asyncio.create_task(service.predict("mood", "cat", "paris"))]
        await until(lambda: service.num_waiting() == 2)
        monkeypatch.setattr("polytask.service.processes.remote_engine.HUNG_S", 0.1)
        for call in calls:
            response = await call
            assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
            assert "hangs" in response.json()["detail"]
        await until(lambda: service.num_waiting() == 0)
        assert (await service.client.get("/readyz")).status_code == 503
        assert (await service.client.get("/livez")).status_code == 200
        monkeypatch.setattr("polytask.service.processes.remote_engine.HUNG_S", float("inf"))
        backend.open()
        remote.endpoint.broadcast_status(ready=False, speed=1e6)
        remote.endpoint.broadcast_status(ready=True, speed=1e6)
        async with asyncio.timeout(30):
            while (await service.client.get("/readyz")).status_code != 200:  # noqa: ASYNC110, a client has nothing else
                await asyncio.sleep(0.01)
        assert (await service.predict("mood", "cat")).status_code == 200


async def test_a_frontend_that_dies_takes_its_rows_along(tmp_path: Path) -> None:
    """Rows of a dead frontend are dropped and counted; rows of other frontends run."""
    backend, socket = GatedBackend(), tmp_path / "engine.sock"
    async with engine(socket, backend) as remote, frontend({socket: remote}) as (service, _):
        running = await hold(service, backend)
        async with contextlib.AsyncExitStack() as dying:
            other, _ = await dying.enter_async_context(frontend({socket: remote}))
            lost = asyncio.create_task(other.predict("topics", "cat", "paris", "good"))
            kept = asyncio.create_task(service.predict("entities", "cat"))
            await until(lambda: service.num_waiting() == 4)
            remote.ends[-1].close()
            await until(lambda: service.num_waiting() == 1)
            assert remote.sample('polytask_dropped_inputs_total{reason="disconnect",task="topics"}') == 3
            assert (await lost).status_code == 503
            backend.open()
            assert [(await call).status_code for call in (running, kept)] == [200, 200]


async def test_a_request_goes_to_the_engine_with_the_fewest_tokens(tmp_path: Path) -> None:
    """Short requests go to another engine while a long one is in flight, and an engine that is not ready gets none."""
    backends = [GatedBackend(), GatedBackend()]
    sockets = [tmp_path / f"{number}.sock" for number in range(2)]
    async with (
        engine(sockets[0], backends[0]) as left,
        engine(sockets[1], backends[1]) as right,
        frontend({sockets[0]: left, sockets[1]: right}) as (service, engine_client),
    ):
        await until(lambda: engine_client.num_ready == 2)
        for backend in backends:
            backend.shut()
        long = [asyncio.create_task(service.predict("mood", "the cat sat good bad paris a b c d e f g h"))]
        await until(lambda: admitted(left, right) == [0, 1] or admitted(left, right) == [1, 0])
        busy = admitted(left, right).index(1)
        short = []
        for number in range(3):
            short.append(asyncio.create_task(service.predict("mood", "cat")))
            await until(lambda number=number: sum(admitted(left, right)) == number + 2)  # type: ignore[misc]
        assert admitted(left, right)[busy] == 1
        for backend in backends:
            backend.open()
        assert {(await call).status_code for call in long + short} == {200}
        before = admitted(left, right)[0]
        left.endpoint.broadcast_status(ready=False, speed=100.0)
        await until(lambda: engine_client.num_ready == 1)
        for _ in range(4):
            assert (await service.predict("mood", "cat")).status_code == 200
        assert admitted(left, right)[0] == before


def admitted(*engines: Engine) -> list[float]:
    """The number of rows of task `mood` that each engine has accepted."""
    return [each.sample('polytask_inputs_total{task="mood"}') for each in engines]


async def test_what_never_fits_is_told_so_by_the_engine_through_every_protocol(tmp_path: Path) -> None:
    """A request that takes longer than a deadline at the engine's speed is a 413 that says how much fits, without Retry-After."""
    async with both(tmp_path, real_backend(), token_budget=64) as (service, remote):
        remote.worker.queue.start(replace(remote.worker.queue.limits, speed=20.0))
        texts = ["the cat sat"] * 100
        tensor = {"name": "text", "datatype": "BYTES", "shape": [100], "data": texts}
        for path, content in (
            ("/v1/tasks/mood/predict", {"inputs": texts}),
            ("/v1/predict", {"tasks": ["mood", "topics"], "inputs": texts}),
            ("/v1/models/mood:predict", {"instances": texts}),
            ("/v2/models/mood/infer", {"inputs": [tensor]}),
        ):
            refused = await service.client.post(path, json=content)
            assert refused.status_code == 413
            assert "in the 10 s of a deadline; send it in several requests" in refused.text
            assert "Retry-After" not in refused.headers
        assert (await service.predict("mood", *texts)).json()["type"] == "urn:polytask:too-long-to-run"
        assert (await service.predict("mood", *texts[:10])).status_code == 200
        assert await service.metric('polytask_rejections_total{reason="too_large",task="mood"}') == 5
        assert service.num_waiting() == 0
