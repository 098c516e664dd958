"""Abuse: hostile requests are refused as documented, do not run, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import psutil
import pytest

from benchmarks.serving.abuse import post, unanswered
from benchmarks.serving.fuzz import flat, generated_calls, hostile_bodies
from benchmarks.serving.servers import Server
from tests.service.support import checkpoints
from tests.service.support.gated_service import Process, process
from tests.service.support.processes import until

CALLS, BODIES, REQUESTS, ABORTED = 300, 150, 600, 100
GROWTH_MB = 15

RAN, DROPPED = "polytask_batch_inputs_sum", "polytask_dropped_inputs_total"
WAITING, IN_FLIGHT = "polytask_queue_inputs", "polytask_requests_in_flight"


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The tiny checkpoint, served behind a gate."""
    store = tmp_path_factory.mktemp("store")
    checkpoints.saved(store)
    with process(store) as gated:
        yield gated


@pytest.fixture
def server(gated: Process) -> Server:
    """The service as the load generator sees it."""
    return Server(gated.client.base_url.port or 0, psutil.Process(gated.popen.pid))


def answers(client: httpx.Client) -> list[object]:
    """The answers of the service to the examples of all tasks."""
    tasks = client.get("/v1/tasks").json()["tasks"]
    return [client.post(f"/v1/tasks/{task['name']}/predict", json=task["example"]).json()["answers"] for task in tasks]


def test_generated_calls_get_documented_responses(gated: Process) -> None:
    """Every generated call, valid or not, gets a status, content type and fields of /openapi.json, and none is a 5xx."""
    statuses = generated_calls(str(gated.client.base_url), CALLS)
    assert statuses.keys() >= {200, 404, 422}


def test_bodies_that_are_no_requests_are_refused(gated: Process) -> None:
    """Binary data, other encodings, deep nesting and huge texts are 4xx with a problem, and later answers are unchanged."""
    before = answers(gated.client)
    assert hostile_bodies(gated.client, BODIES) == []
    assert answers(gated.client) == before


def test_rows_of_aborted_requests_do_not_run(gated: Process, server: Server) -> None:
    """The rows of a hundred connections that close while a batch runs are dropped, counted, and never run."""
    request = post("/v1/tasks/mood/predict", {"inputs": ["the cat sat"]})
    ran, dropped = gated.sample(RAN), gated.sample(DROPPED)
    files = server.open_files()
    gated.tell("shut")
    with unanswered(server.port, [request]):
        until(lambda: gated.sample(IN_FLIGHT) == 1 and gated.sample(WAITING) == 0)
        with unanswered(server.port, [request] * ABORTED):
            until(lambda: gated.sample(WAITING) == ABORTED)
        until(lambda: gated.sample(DROPPED) == dropped + ABORTED)
        gated.tell("open")
        until(lambda: gated.sample(IN_FLIGHT) == 0)
    assert gated.sample(RAN) == ran + 1
    until(lambda: server.open_files() <= files)


def test_nothing_is_left_behind(gated: Process, server: Server) -> None:
    """After many requests, some hostile and some aborted, neither memory nor open files have grown."""
    first, last = flat(server, gated.client, REQUESTS)
    assert last.files <= first.files
    assert last.memory_mb < first.memory_mb + GROWTH_MB
