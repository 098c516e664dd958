"""`compose.replicas.yaml`: replicas are replaced while clients without retries send requests through the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from benchmarks.serving.load import Request, closed_loop
from tests.docker.support.engine import ROOT, Stack, inspected, until

pytestmark = pytest.mark.docker

_CLIENTS = 8
_REPLAYED_BYTES = 65_536
"""The proxy keeps requests of fewer bytes until they are answered (`tune.bufsize`)."""


@pytest.fixture(scope="module")
def stack(service_image: str) -> Iterator[Stack]:
    """Two replicas, healthy and known to the proxy, and Prometheus."""
    files = ("compose.yaml", "compose.replicas.yaml")
    # Starting replicas take the cores from those that answer.
    stack = Stack(service_image, "polytask-replicas", files, {"POLYTASK_DEADLINE_S": "25"})
    try:
        stack.compose("up", "--detach", "--no-build", "service", "proxy", "prometheus")
        until("both replicas are healthy", lambda: stack.is_healthy() and len(stack.containers()) == 2)
        yield stack
    finally:
        stack.compose("down", "--volumes")


def requests(*, large: bool) -> list[Request]:
    """Short texts for several tasks; with `large` every tenth body is larger than the buffer of the proxy."""
    bodies = [json.dumps({"inputs": [f"Where is card number {number}?"]}).encode() for number in range(20)]
    if large:
        bodies[::10] = [body + b" " * 2 * _REPLAYED_BYTES for body in bodies[::10]]
    tasks = ("intent", "toxicity", "emotions")
    return [
        Request.post(task, 1, f"/v1/tasks/{task}/predict", body)
        for number, body in enumerate(bodies)
        for task in (tasks[number % len(tasks)],)
    ]


@contextlib.contextmanager
def load(stack: Stack, *, large: bool) -> Iterator[Counter[int]]:
    """Clients send requests during the block. The counter has the number of requests by status."""
    statuses: Counter[int] = Counter()
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            statuses.update(asyncio.run(closed_loop(stack.port, requests(large=large), _CLIENTS, 2)).statuses)

    with ThreadPoolExecutor() as pool:
        asking = pool.submit(ask)
        try:
            until("requests are answered", lambda: statuses[200] > _CLIENTS)
            yield statuses
        finally:
            done.set()
            asking.result()
    print(f"\nstatuses: {dict(statuses)}")  # noqa: T201


def test_a_rolling_restart_fails_no_request(stack: Stack) -> None:
    """During a rolling restart every request is answered, also those too large to be sent twice."""
    before = set(stack.containers())
    with load(stack, large=True) as statuses:
        environment = stack.environment | {"COMPOSE": shlex.join(stack.command)}
        subprocess.run([str(ROOT / "docker" / "rolling-restart.sh")], cwd=ROOT, env=environment, check=True)
    after = set(stack.containers())
    assert len(after) == 2
    assert before & after == set()
    assert set(statuses) == {200}


def test_what_a_killed_replica_had_another_answers(stack: Stack) -> None:
    """The requests of a killed replica are sent again to the other, and no client notices."""
    victim = stack.containers()[0]
    with load(stack, large=False) as statuses:
        stack.kill(victim)
        until("the replica is started again", lambda: inspected(victim)["RestartCount"] == 1)
        until("the replica is healthy again", stack.is_healthy)
    assert set(statuses) == {200}


def test_prometheus_reads_each_replica(stack: Stack) -> None:
    """Prometheus scrapes each replica by its own address."""
    until("Prometheus has read both", lambda: stack.series('count(up{job="polytask"} == 1)') == [2])


@pytest.mark.parametrize("path", ["/metrics", "/admin", "/admin/models/load"])
def test_what_is_about_one_replica_is_not_at_the_proxy(stack: Stack, path: str) -> None:
    """The proxy answers 404 on paths that concern a single replica."""
    response = httpx.get(f"{stack.url}{path}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == 404


def test_headers_pass_the_proxy(stack: Stack) -> None:
    """The client's request id and the version that answered pass the proxy."""
    body = {"inputs": ["Where is my new card?"]}
    response = httpx.post(f"{stack.url}/v1/tasks/intent/predict", json=body, headers={"X-Request-Id": "one.of/mine"})
    assert response.headers["X-Request-Id"] == "one.of/mine"
    assert response.headers["Polytask-Model"] == "demo/1"


def test_without_replicas_the_proxy_says_when_to_come_back(stack: Stack) -> None:
    """Without replicas the proxy answers with the service's own problem and Retry-After."""
    stack.compose("stop", "service")
    response = httpx.post(f"{stack.url}/v1/tasks/intent/predict", json={"inputs": ["Where is my card?"]}, timeout=30)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    assert response.json()["type"] == "urn:polytask:not-ready"
