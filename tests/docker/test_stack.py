"""The images build, and `compose.yaml` runs them. By `make test-docker`; Grafana is left out."""

from __future__ import annotations

import concurrent.futures
import subprocess
import threading
from collections.abc import Iterable, Iterator

import httpx
import pytest

from polytask_client import ClassificationAnswer, Client, Retries
from tests.docker.support.engine import PYTHON_IMAGE, Stack, docker, image_mb, inspected, until
from tests.operations.support.exported import names_on, recorded

pytestmark = pytest.mark.docker

MOST_MB = 1200
"""Over the image of Python, which takes about 130 MB as it is published."""


@pytest.fixture(scope="module")
def stack(service_image: str) -> Iterator[Stack]:
    """The service, healthy, and Prometheus."""
    stack = Stack(service_image, "polytask-test", variables={"POLYTASK_PREDICTION_METRICS": "yes"})
    try:
        stack.compose("up", "--detach", "--no-build", "service", "prometheus")
        until("the service is healthy", stack.is_healthy)
        yield stack
    finally:
        stack.compose("down", "--volumes")


def test_the_image_is_small_and_holds_no_training(stack: Stack) -> None:
    """The image adds less than 1.2 GB to that of Python, and has neither the code that trains nor a compiler nor pip in its environment."""
    size = image_mb(stack.image) - image_mb(PYTHON_IMAGE)
    torch = docker("run", "--rm", "--entrypoint", "du", stack.image, "-sm", "/venv/lib/python3.11/site-packages/torch")
    print(f"\n{stack.image}: {size:.0f} MB over Python's, of which torch {torch.split()[0]} MiB")  # noqa: T201
    assert size < MOST_MB
    looked_for = "import importlib.util as i, shutil as s; print([*map(i.find_spec, ['polytask.training', 'pip'])], s.which('cc'), s.which('gcc'))"
    assert docker("run", "--rm", "--entrypoint", "python", stack.image, "-c", looked_for) == "[None, None] None None"


def test_it_has_no_rights(stack: Stack) -> None:
    """The service runs without root or capabilities, and can write to /tmp only."""
    identity = docker(
        "exec", stack.container(), "python", "-c", "import os; print(os.getuid(), open('/proc/1/status').read())"
    )
    assert identity.split()[0] == "10001"
    assert "NoNewPrivs:\t1" in identity
    assert "CapBnd:\t0000000000000000" in identity
    tried = "import os; print([folder for folder in ('/', '/models', '/venv', '/tmp') if os.access(folder, os.W_OK)])"
    assert docker("exec", stack.container(), "python", "-c", tried) == "['/tmp']"


def test_it_answers_through_its_port(stack: Stack) -> None:
    """A prediction through the published port is that of the embedded checkpoint."""
    with Client(stack.url) as client:
        prediction = client.predict("intent", ["I still have not received my new card, where is it?"])
    assert [answer.label for answer in prediction.of(ClassificationAnswer)] == ["card_arrival"]


def test_prometheus_has_data_of_every_series(stack: Stack) -> None:
    """After a short load Prometheus has every series of the page, and a value for every recording rule."""
    assert httpx.get(f"{stack.prometheus}/api/v1/status/config", timeout=5).is_success

    def missing(names: Iterable[str]) -> list[str]:
        return [name for name in names if not stack.series(f'count({{__name__="{name}"}})')]

    with Client(stack.url) as client:
        examples = {name: task.example["inputs"] for name, task in client.tasks().tasks.items()}

        def ask() -> None:
            for task, inputs in examples.items():
                client.predict(task, inputs)

        def all_recorded() -> bool:
            ask()
            return not missing(recorded())

        until("Prometheus has recorded what its rules say", all_recorded)
    assert stack.series("sum(polytask_ready)") == [1]
    assert missing(names_on(httpx.get(f"{stack.url}/metrics", timeout=5).text)) == []
    groups = httpx.get(f"{stack.prometheus}/api/v1/rules", timeout=5).json()["data"]["groups"]
    assert [rule["name"] for group in groups for rule in group["rules"] if rule["health"] != "ok"] == []


def test_promtool_finds_no_fault(stack: Stack) -> None:
    """Promtool accepts the page of the running service, the configuration and the rules."""
    page = httpx.get(f"{stack.url}/metrics", timeout=5).content
    prometheus = ["docker", "exec", "-i", stack.container("prometheus"), "promtool", "check"]
    subprocess.run([*prometheus, "metrics"], input=page, check=True)
    subprocess.run([*prometheus, "config", "/etc/prometheus/prometheus.yml"], check=True)


def test_killed_under_load_it_comes_back(stack: Stack) -> None:
    """A service that is killed under load is restarted and gets healthy, and no call of the clients fails."""
    done = threading.Event()
    answered = threading.Semaphore(0)

    def ask() -> int:
        count = 0
        with Client(stack.url, deadline_s=120, retries=Retries(max_tries=None, longest_s=1)) as client:
            while not done.is_set():
                client.predict("intent", ["Where is my new card?"])
                count += 1
                answered.release()
        return count

    with concurrent.futures.ThreadPoolExecutor() as pool:
        clients = [pool.submit(ask) for _ in range(4)]
        try:
            assert all(answered.acquire(timeout=60) for _ in range(20))
            stack.kill(stack.container())
            until("the service is started again", lambda: inspected(stack.container())["RestartCount"] == 1)
            until("the service is healthy again", stack.is_healthy)
            while answered.acquire(blocking=False):
                pass
            assert all(answered.acquire(timeout=60) for _ in range(20))
        finally:
            done.set()
        assert all(client.result() > 0 for client in clients)


def test_sigterm_ends_it_in_order(stack: Stack) -> None:
    """`stop` is SIGTERM to the service itself, which ends with exit code 0 and not by SIGKILL."""
    stack.compose("stop", "service")
    assert inspected(stack.container())["State"]["ExitCode"] == 0
