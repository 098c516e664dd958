"""Version manager over HTTP: a version is loaded, compared, activated, rolled back and unloaded."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from polytask.service.backends.contract import Backend
from polytask.service.backends.selection import load_backend
from polytask.service.config.settings import Settings
from tests.model_store.support import stores
from tests.service.processes.test_remote_engine import both
from tests.service.support import checkpoints
from tests.service.support.doubles import GatedBackend, real_backend
from tests.service.support.serving import Service, hold, serving, until
from tests.service.web.middleware.test_authentication import KEYS, bearer, refused
from tests.support import exported, tiny

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("untouched")]

ANYTHING = dict.fromkeys((task.name for task in tiny.tasks()), 1.0)
"""Tolerances that let a network of other random numbers pass."""

OTHER_TASKS = (replace(tiny.tasks()[0], name="humour"), *tiny.tasks()[1:])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with the tiny network as version 1, and another as version 2."""
    checkpoints.saved(tmp_path)
    checkpoints.saved(tmp_path, seed=1)
    return tmp_path


class Admin:
    """A client with an admin key of a service that serves version 1."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def post(self, verb: str, **content: Any) -> httpx.Response:
        """Requests a change."""
        return await self.service.client.post(f"/admin/models/{verb}", json=content)

    async def get(self, path: str) -> Any:
        """The JSON response of a path."""
        return (await self.service.client.get(path)).json()

    async def load(self, model: str, **content: Any) -> dict[str, Any]:
        """Loads a version. Returns the status of the load."""
        response = await self.post("load", model=model, **content)
        assert response.status_code == 202, response.text
        assert response.json()["load"]["model"] == model
        return await self.loaded()

    async def loaded(self) -> dict[str, Any]:
        """The status of the load when it is over."""
        while (await self.get("/v1/models"))["loading"]:  # noqa: ASYNC110, a client has nothing else
            await asyncio.sleep(0.01)
        return dict((await self.get("/admin/models"))["load"])

    async def change(self, verb: str) -> tuple[str, str | None]:
        """Makes a change. Returns the active and the standby version."""
        response = await self.post(verb)
        assert response.status_code == 200, response.text
        return response.json()["active"], response.json()["standby"]

    async def answers(self, task: str = "mood") -> tuple[str, Any]:
        """The version that answers, and its answers."""
        response = await self.service.predict(task, "cat")
        assert response.status_code == 200, response.text
        assert response.headers["polytask-model"] == response.json()["model"]
        return response.json()["model"], response.json()["answers"]


@contextlib.asynccontextmanager
async def administered(store: Path, backend: Backend | None = None, **settings: Any) -> AsyncIterator[Admin]:
    """Serves version 1."""
    async with serving(backend, store=store, model="tiny/1", threads=1, api_keys=KEYS, **settings) as service:
        service.client.headers.update(bearer("ops"))
        yield Admin(service)


async def test_a_version_is_described(store: Path) -> None:
    """GET /v1/models shows the version, its backend and metrics, and the path of its card."""
    async with administered(store) as admin:
        listed = await admin.get("/v1/models")
        (model,) = listed["models"]
        assert (listed["active"], listed["loading"], model["state"]) == ("tiny/1", None, "active")
        assert (model["backend"], model["precision"], model["device"]) == ("torch", "float32", "cpu")
        assert model["metrics"] == checkpoints.METRICS
        card = await admin.service.client.get(model["card"])
        assert (card.text, card.headers["content-type"]) == ("# tiny\n", "text/markdown; charset=utf-8")
        missing = await admin.service.client.get("/v1/models/tiny/2/card")
        refused(missing, 404, "Unknown model")


async def test_versions_are_activated_and_rolled_back(store: Path) -> None:
    """Tasks, models, metrics and answers are those of the active version after each swap, rollback and unload."""
    async with administered(store) as admin:
        first = await admin.answers()
        assert (await admin.load("tiny/2", tolerances=ANYTHING))["state"] == "loaded"
        assert await admin.answers() == first
        assert await admin.change("activate") == ("tiny/2", "tiny/1")
        second = await admin.answers()
        assert (second[0], second[1] != first[1]) == ("tiny/2", True)
        assert (await admin.get("/v1/tasks"))["model"] == "tiny/2"
        assert [model["state"] for model in (await admin.get("/v1/models"))["models"]] == ["active", "standby"]
        revisions = 'polytask_model_info{{backend="torch",device="cpu",dtype="float32",revision="{}"}}'
        assert await admin.service.metric(revisions.format("tiny/2")) == 1
        assert "tiny/1" not in (await admin.service.client.get("/metrics")).text
        assert await admin.change("rollback") == ("tiny/1", "tiny/2")
        assert await admin.answers() == first
        refused(await admin.post("rollback"), 409, "Conflict")
        assert await admin.change("activate") == ("tiny/2", "tiny/1")
        assert await admin.answers() == second
        assert await admin.change("unload") == ("tiny/2", None)
        assert await admin.answers() == second
        for result, times in {"loaded": 1, "activated": 2, "rolled_back": 1, "refused": 0, "failed": 0}.items():
            assert await admin.service.metric(f'polytask_reloads_total{{result="{result}"}}') == times


async def test_a_version_runs_as_it_was_exported(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exported version may replace one that runs on another backend, with answers as near as 8 bits allow, and be rolled back."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    checkpoints.saved(store)
    checkpoints.export(store / "tiny" / "3", exported.write(tmp_path, exported.eight_bits("onnxruntime")))
    async with administered(store) as admin:
        first, found = await admin.answers(), await admin.load("tiny/3")
        assert found["state"] == "loaded"
        assert max(shift["moved"] for shift in found["shifts"].values()) > 0
        assert await admin.change("activate") == ("tiny/3", "tiny/1")
        active, standby = (await admin.get("/v1/models"))["models"]
        assert (active["backend"], active["precision"]) == ("onnxruntime", "int8")
        assert (standby["backend"], standby["precision"]) == ("torch", "float32")
        revision, (answer,) = await admin.answers()
        assert revision == "tiny/3"
        assert answer["scores"] == pytest.approx(first[1][0]["scores"], abs=0.1)
        assert answer["scores"] != first[1][0]["scores"]
        assert await admin.change("rollback") == ("tiny/1", "tiny/3")
        assert await admin.answers() == first


async def test_a_version_whose_answers_have_moved_is_refused(store: Path) -> None:
    """The status names the tasks that drifted and by how much; a tolerance of 1 for these accepts the version."""
    async with administered(store) as admin:
        first, found = await admin.answers(), await admin.load("tiny/2")
        assert found["state"] == "refused"
        far = {task: 1.0 for task, shift in found["shifts"].items() if shift["refused"]}
        assert far
        for task, shift in found["shifts"].items():
            assert shift["refused"] == (shift["moved"] > shift["tolerance"] == 0.5)
            assert (f"{task} by " in found["detail"]) == shift["refused"]
        refused(await admin.post("activate"), 409, "Conflict")
        assert await admin.answers() == first
        assert (await admin.load("tiny/2", tolerances=far))["state"] == "loaded"


async def test_a_version_with_spoilt_golden_answers_is_refused(store: Path) -> None:
    """A version that does not repeat its golden answers is refused, the task is named, and the active version keeps serving."""
    checkpoints.saved(store, seed=1, spoilt="topics")
    async with administered(store) as admin:
        first, found = await admin.answers(), await admin.load("tiny/3", tolerances=ANYTHING)
        assert found["state"] == "refused"
        assert "golden answer of task 'topics'" in found["detail"]
        assert await admin.answers() == first
        assert (await admin.get("/v1/models"))["models"][1:] == []


def cut_off(store: Path) -> None:
    """Damages the weights of version 2."""
    weights = store / "tiny" / "2" / "weights.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-9])


def without_manifest(store: Path) -> None:
    """Removes the manifest of version 2."""
    (store / "tiny" / "2" / "manifest.json").unlink()


def without_finite_weights(store: Path) -> None:
    """Makes a weight of version 2 NaN."""
    stores.rewrite_weights(store / "tiny" / "2", lambda tensors: tensors["heads.sentence.bias"].fill_(float("nan")))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_off, "weights.safetensors"),
        (without_manifest, "manifest.json"),
        (without_finite_weights, "has NaN or infinity in heads.sentence.bias"),
    ],
)
async def test_a_damaged_version_changes_nothing(store: Path, damage: Callable[[Path], None], reason: str) -> None:
    """The load fails with its reason, and no thread or version remains."""
    damage(store)
    async with administered(store) as admin:
        first, threads = await admin.answers(), threading.active_count()
        found = await admin.load("tiny/2", tolerances=ANYTHING)
        assert (found["state"], reason in found["detail"]) == ("failed", True)
        assert await admin.answers() == first
        await until(lambda: threading.active_count() == threads)
        assert (await admin.get("/admin/models"))["standby"] is None


async def test_a_version_that_says_it_is_another_changes_nothing(store: Path) -> None:
    """A copy of the active version under another number is not loaded, and what follows does not touch the active one."""
    shutil.copytree(store / "tiny" / "1", store / "tiny" / "7")
    async with administered(store) as admin:
        first, found = await admin.answers(), await admin.load("tiny/7")
        assert found["state"] == "failed"
        assert "this folder is tiny/7, but its manifest says tiny/1" in found["detail"]
        refused(await admin.post("unload"), 409, "Conflict")
        assert await admin.answers() == first
        assert (await admin.load("tiny/2", tolerances=ANYTHING))["state"] == "loaded"
        assert await admin.change("unload") == ("tiny/1", None)
        assert await admin.answers() == first
        assert admin.service.worker.ready


def empty(store: Path) -> None:
    """Cuts off every file of a store, then removes them all."""
    for file in store.rglob("*.*"):
        stores.overwrite(file, b"")
    shutil.rmtree(store)


async def test_versions_in_memory_need_their_files_no_more(store: Path) -> None:
    """Without the store both versions in memory answer, swap and unload; what is not in memory is not found."""
    async with administered(store) as admin:
        first, _ = await admin.answers(), await admin.load("tiny/2", tolerances=ANYTHING)
        empty(store)
        assert await admin.change("activate") == ("tiny/2", "tiny/1")
        assert (await admin.answers())[0] == "tiny/2"
        assert await admin.change("rollback") == ("tiny/1", "tiny/2")
        assert await admin.answers() == first
        assert await admin.change("unload") == ("tiny/1", None)
        refused(await admin.post("load", model="tiny/2"), 404, "Unknown model")
        assert await admin.answers() == first


async def test_an_unexpected_error_changes_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a load that failed unexpectedly the active version answers and another load is possible."""

    def fail(_: Settings) -> Any:
        raise MemoryError("no room")

    async with administered(store) as admin:
        first = await admin.answers()
        with monkeypatch.context() as patched:
            patched.setattr("polytask.service.versions.loader.load_backend", fail)
            found = await admin.load("tiny/2")
        assert (found["state"], found["detail"]) == ("failed", "MemoryError: no room")
        assert await admin.answers() == first
        assert (await admin.load("tiny/2", tolerances=ANYTHING))["state"] == "loaded"


async def test_impossible_changes_are_refused_at_once(store: Path) -> None:
    """Each refusal says what is wrong and what to do."""
    async with administered(store) as admin:
        for verb in ("activate", "rollback", "unload"):
            refused(await admin.post(verb), 409, "Conflict")
        assert (
            "the store has: tiny" in refused(await admin.post("load", model="other/1"), 404, "Unknown model")["detail"]
        )
        assert "has: 1, 2" in refused(await admin.post("load", model="tiny/9"), 404, "Unknown model")["detail"]
        refused(await admin.post("load", model="../tiny"), 404, "Unknown model")
        refused(await admin.post("load", model="tiny/1"), 409, "Conflict")
        wrong: list[tuple[dict[str, Any], str]] = [
            ({}, "model"),
            ({"model": "tiny/2", "tolerance": 1}, "tolerance"),
            ({"model": "tiny/2", "tolerances": {"mood": 2}}, "tolerances.mood"),
            ({"model": "tiny/2", "tolerances": {"nothing": 1}}, "tolerances.nothing"),
        ]
        for content, field in wrong:
            found = refused(await admin.post("load", **content), 422, "Invalid input")
            assert [error["field"] for error in found["errors"]] == [field]
        await admin.load("tiny/2", tolerances=ANYTHING)
        assert "unload it first" in refused(await admin.post("load", model="tiny/2"), 409, "Conflict")["detail"]


async def test_a_change_during_a_load_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a version is being loaded it is listed as loading, and every other change is refused."""
    go_on = threading.Event()

    def slowly(settings: Settings) -> Any:
        assert go_on.wait(30)
        return load_backend(settings)

    monkeypatch.setattr("polytask.service.versions.loader.load_backend", slowly)
    async with administered(store) as admin:
        await admin.post("load", model="tiny/2", tolerances=ANYTHING)
        assert (await admin.get("/v1/models"))["loading"] == "tiny/2"
        for verb in ("load", "activate", "unload"):
            refused(await admin.post(verb, model="tiny/2"), 409, "Conflict")
        assert (await admin.answers())[0] == "tiny/1"
        go_on.set()
        await admin.loaded()
        assert await admin.change("activate") == ("tiny/2", "tiny/1")


async def test_a_request_is_answered_by_the_version_that_admitted_it(store: Path) -> None:
    """Requests after the swap get the new version, however long older requests take; unloading waits for the older ones."""
    backend = GatedBackend()
    async with administered(store, backend) as admin:
        await admin.load("tiny/2", tolerances=ANYTHING)
        admitted = await hold(admin.service, backend)
        await admin.change("activate")
        assert (await admin.answers())[0] == "tiny/2"
        unloading = asyncio.create_task(admin.change("unload"))
        assert (await admin.answers())[0] == "tiny/2"
        refused(await admin.post("load", model="tiny/1"), 409, "Conflict")
        assert not unloading.done()
        backend.open()
        assert (await admitted).json()["model"] == "tiny/1"
        assert await unloading == ("tiny/2", None)


@pytest.mark.parametrize("back", [False, True])
async def test_a_version_that_is_unloaded_leaves_nothing_behind(
    store: Path, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    """Its threads end and its network is freed without a garbage collection, also if it was active before."""
    backends = []

    def noted(settings: Settings) -> Any:
        found = load_backend(settings)
        backends.append(weakref.ref(found[1]))
        return found

    monkeypatch.setattr("polytask.service.versions.loader.load_backend", noted)
    async with administered(store) as admin:
        await admin.load("tiny/2", tolerances=ANYTHING)
        await admin.change("activate")
        await admin.service.predict("mood", *["cat"] * 100)
        if back:
            await admin.change("rollback")
        else:
            await admin.change("unload")
            await admin.load("tiny/1", tolerances=ANYTHING)
            await admin.change("activate")
        gc.disable()
        try:
            assert backends[0]() is not None
            await admin.change("unload")
            assert backends[0]() is None
        finally:
            gc.enable()
        assert sum(thread.name == "device" for thread in threading.enumerate()) == 1


async def test_tasks_come_and_go(store: Path) -> None:
    """Paths and metrics have the tasks of the active version; the metrics of a task end with the last version that has it."""
    checkpoints.saved(store, tasks=OTHER_TASKS)
    async with administered(store) as admin:
        found = await admin.load("tiny/3")
        assert (found["state"], found["new_tasks"], found["gone_tasks"]) == ("loaded", ["humour"], ["mood"])
        assert not any(shift["refused"] for shift in found["shifts"].values())
        await admin.change("activate")
        assert (await admin.answers("humour"))[0] == "tiny/3"
        refused(await admin.service.predict("mood", "cat"), 404, "Unknown task")
        assert (await admin.get("/v1/tasks"))["tasks"][0]["name"] == "humour"
        assert await admin.service.metric('polytask_requests_total{outcome="ok",task="humour"}') == 1
        await admin.change("unload")
        page = (await admin.service.client.get("/metrics")).text
        assert 'task="mood"' not in page
        assert 'task="humour"' in page


async def test_several_processes_refuse_all_changes(tmp_path: Path) -> None:
    """With several processes the version is described, but every change is refused, as no process could make it for all."""
    async with both(tmp_path, real_backend(), api_keys=KEYS) as (service, _):
        service.client.headers.update(bearer("ops"))
        (model,) = (await service.client.get("/v1/models")).json()["models"]
        assert (model["model"], model["backend"]) == ("tiny/1", None)
        refused(await service.client.get("/admin/models"), 501, "Several processes")
        for verb in ("load", "activate", "rollback", "unload"):
            response = await service.client.post(f"/admin/models/{verb}", json={"model": "tiny/2"})
            assert "POLYTASK_FRONTENDS" in refused(response, 501, "Several processes")["detail"]
