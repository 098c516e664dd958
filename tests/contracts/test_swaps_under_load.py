"""Swaps under load: versions are swapped back and forth, no request fails, and each is answered by one version, which it names."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.support import checkpoints
from tests.service.support.processes import PATIENCE_S, polytask_serve
from tests.service.web.middleware.test_authentication import KEYS, bearer
from tests.support import tiny

pytestmark = pytest.mark.anyio

Json = dict[str, Any]

_OF_FIRST = "/v2/models/mood/versions/1/infer"


@pytest.fixture
def anyio_backend() -> str:
    """Tests that are coroutines run on asyncio."""
    return "asyncio"


def flat(value: Any) -> list[Any]:
    """The leaves of a JSON value in order of their names, since two nearly equal scores may change places."""
    if isinstance(value, dict):
        return [leaf for name in sorted(value) for leaf in flat(value[name])]
    return [leaf for entry in value for leaf in flat(entry)] if isinstance(value, list) else [value]


async def calls(client: httpx.AsyncClient) -> dict[str, Json]:
    """Bodies by path: the example of each task, several tasks at once, and tensors of any version and of version 1."""
    tasks = (await client.get("/v1/tasks")).json()["tasks"]
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["the cat sat"]}
    return {f"/v1/tasks/{task['name']}/predict": task["example"] for task in tasks} | {
        "/v1/predict": {"tasks": ["mood", "topics"], "inputs": ["the cat sat", "a cat"]},
        "/v2/models/mood/infer": {"inputs": [tensor]},
        _OF_FIRST: {"inputs": [tensor]},
    }


async def answers_without_load(client: httpx.AsyncClient, bodies: dict[str, Json]) -> dict[str, Json]:
    """The active version's response to each call without other requests."""
    return {path: (await client.post(path, json=body)).json() for path, body in bodies.items()}


@dataclass
class Crowd:
    """Clients that send the `bodies` in turn and check each response against `expected`, that of each version without load."""

    client: httpx.AsyncClient
    bodies: dict[str, Json]
    expected: dict[str, dict[str, Json]]
    answered: Counter[str] = field(default_factory=Counter)
    over: bool = False

    async def ask(self, index: int) -> None:
        """Sends requests until `over`. Fails at the first that has no answer, or not the one of the version that it names.

        A call of a version by its number is refused while another one is active, and never answered by that.
        """
        paths = list(self.bodies)
        while not self.over:
            path = paths[index % len(paths)]
            index += 1
            response = await self.client.post(path, json=self.bodies[path])
            if path == _OF_FIRST and response.status_code == 404:
                continue
            assert response.status_code == 200, response.text
            found, model = response.json(), response.headers["polytask-model"]
            assert path != _OF_FIRST or model == "tiny/1"
            assert found.get("model", model) == model
            assert flat(found) == pytest.approx(flat(self.expected[model][path]), abs=1e-4)
            self.answered[model] += 1


@dataclass
class Admin:
    """A client with an admin key."""

    client: httpx.AsyncClient

    async def change(self, verb: str, **content: Any) -> Json:
        """Makes a change. Returns the state after it."""
        response = await self.client.post(f"/admin/models/{verb}", json=content)
        assert response.is_success, response.text
        return dict(response.json())

    async def load(self, model: str) -> None:
        """Loads a version with any drift of its answers."""
        await self.change("load", model=model, tolerances={task.name: 1.0 for task in tiny.tasks()})
        while (await self.client.get("/v1/models")).json()["loading"]:  # noqa: ASYNC110, a client has nothing else
            await asyncio.sleep(0.05)


async def swap(admin: Admin, crowd: Crowd, clients: int, swaps: int) -> None:
    """Swaps tiny/2, which is active, and tiny/1 back and forth during load; every fourth time it loads the version again."""
    asking = [asyncio.create_task(crowd.ask(index)) for index in range(clients)]
    active, other = "tiny/2", "tiny/1"
    for number in range(swaps):
        if number % 4 == 2:
            await admin.change("unload")
            await admin.load(other)
        state = await admin.change("rollback" if number == 0 else "activate")
        active, other = other, active
        assert state["active"] == active
        enough = crowd.answered[active] + clients
        while crowd.answered[active] < enough and not any(task.done() for task in asking):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    crowd.over = True
    await asyncio.gather(*asking)


async def swapped(store: Path, clients: int, swaps: int) -> int:
    """Swaps versions in a real server under load. Returns the number of answers, all of which were correct."""
    checkpoints.saved(store)
    checkpoints.saved(store, seed=1)
    keys = store / "keys.toml"
    keys.write_text(KEYS)
    limits = httpx.Limits(max_connections=clients + 1)
    flags = ("--store", str(store), "--model", "tiny/1", "--threads", "1", "--api-keys-file", str(keys))
    with polytask_serve(*flags) as url:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, headers=bearer("ops"), limits=limits) as client:
            bodies = await calls(client)
            admin, expected = Admin(client), {"tiny/1": await answers_without_load(client, bodies)}
            await admin.load("tiny/2")
            await admin.change("activate")
            expected["tiny/2"] = await answers_without_load(client, bodies)
            assert all(expected["tiny/1"][path] != expected["tiny/2"][path] for path in bodies)
            crowd = Crowd(client, bodies, expected)
            await swap(admin, crowd, clients, swaps)
            page = (await client.get("/metrics")).text.splitlines()
    counts = [line for line in page if line.startswith("polytask_requests_total{") and not line.endswith(" 0.0")]
    refused = [line for line in counts if 'outcome="ok"' not in line]
    assert all('outcome="invalid"' in line and 'task="mood"' in line for line in refused)  # version 1 by its number
    return crowd.answered.total()


async def test_not_one_request_fails_in_a_swap(tmp_path: Path) -> None:
    """Every request during four swaps, from 8 clients, has the answer that one of the versions gives without load."""
    assert await swapped(tmp_path, clients=8, swaps=4) > 8 * 4


@pytest.mark.soak
async def test_not_one_of_many_requests_fails_in_many_swaps(tmp_path: Path) -> None:
    """Every request during 20 swaps, from 64 clients, has the answer that one of the versions gives without load."""
    answered = await swapped(tmp_path, clients=64, swaps=20)
    print(f"{answered} answers")  # noqa: T201, to be reported
    assert answered > 64 * 20
