"""The service as a whole: in a process of its own, on sockets, from start to end."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from polytask.model_store.errors import StoreError
from polytask.service.backends.contract import Backend
from polytask.service.backends.torch_cpu import TorchBackend
from polytask.service.config.settings import Settings
from polytask.service.engine.worker import Worker
from polytask.service.errors import StartupError
from polytask.service.single_process import assemble, serve
from polytask.service.web.listener import listen
from polytask.service.web.server import http_server
from tests.service.support import checkpoints
from tests.service.support.doubles import GatedBackend, real_backend
from tests.service.support.gated_service import process
from tests.service.support.processes import PATIENCE_S, refused, until
from tests.service.support.serving import body
from tests.service.support.upgrade_offers import statuses
from tests.support import tiny


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with the tiny checkpoint."""
    checkpoints.saved(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("hangup_ends")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_answers_what_was_accepted_and_exits_with_zero(store: Path, number: signal.Signals) -> None:
    """Requests that run or wait when the signal comes get their answers; after it nothing new is accepted."""

    def post(task: str) -> int:
        url = f"{started.client.base_url}/v1/tasks/{task}/predict"
        return httpx.post(url, content=body("cat"), timeout=PATIENCE_S).status_code

    with process(store) as started, ThreadPoolExecutor(3) as pool:
        started.tell("shut")
        calls = [pool.submit(post, "mood")]
        until(
            lambda: started.sample("polytask_input_tokens_total") == 3 and started.sample("polytask_queue_inputs") == 0
        )
        calls += [pool.submit(post, task) for task in ("topics", "entities")]
        until(lambda: started.sample("polytask_queue_inputs") == 2)
        started.popen.send_signal(number)
        until(lambda: refused(started.client))
        started.tell("open")
        assert [call.result() for call in calls] == [200] * 3
        assert started.popen.wait(PATIENCE_S) == 0


def test_sigterm_is_seen_before_the_port_is_closed(store: Path) -> None:
    """For POLYTASK_DRAIN_S seconds after SIGTERM the service is not ready but answers requests; then it exits with 0."""
    with process(store, POLYTASK_DRAIN_S="3") as started:
        started.popen.send_signal(signal.SIGTERM)
        until(lambda: started.client.get("/readyz").status_code == 503)
        assert started.client.get("/v2/health/ready").status_code == 503
        assert httpx.post(f"{started.client.base_url}/v1/tasks/mood/predict", content=body("cat")).status_code == 200
        until(lambda: refused(started.client))
        assert started.popen.wait(PATIENCE_S) == 0


def test_a_device_that_hangs_is_not_ready_and_in_the_end_not_live(store: Path) -> None:
    """Requests get 503 at once, every probe says so, and SIGTERM still ends the service; when the device goes on, so does all."""
    ready = ("/readyz", "/v2/health/ready", "/v2/models/mood/ready", "/v2/models/mood/versions/1/ready")
    live = ("/livez", "/v2/health/live")

    def post(task: str) -> int:
        url = f"{started.client.base_url}/v1/tasks/{task}/predict"
        return httpx.post(url, content=body("cat"), timeout=PATIENCE_S).status_code

    def statuses(*paths: str) -> set[int]:
        return {started.client.get(path).status_code for path in paths}

    with (
        process(store, HUNG_S="1.5", RESTART_S="2", POLYTASK_DEADLINE_S="60") as started,
        ThreadPoolExecutor(3) as pool,
    ):
        assert statuses(*ready, *live) == {200}
        assert started.sample("polytask_ready") == 1
        started.tell("shut")
        calls = [pool.submit(post, task) for task in ("mood", "topics", "entities")]
        assert [call.result() for call in calls] == [503] * 3
        assert statuses(*ready) == {503}
        assert started.sample("polytask_ready") == 0
        assert post("mood") == 503
        until(lambda: statuses(*live) == {503})
        started.tell("open")
        until(lambda: statuses(*ready, *live) == {200})
        assert post("mood") == 200
        started.tell("shut")
        assert post("mood") == 503
        started.popen.send_signal(signal.SIGTERM)
        assert started.popen.wait(PATIENCE_S) == 0


@pytest.mark.usefixtures("untouched")
def test_a_wrong_golden_answer_is_a_failed_start(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service with other answers than the checkpoint's ends with an error instead of serving."""
    monkeypatch.setattr(
        "polytask.service.backends.selection.TorchBackend", lambda *_: TorchBackend(tiny.network(seed=1))
    )
    with pytest.raises(StartupError, match="does not give the golden answer of task 'mood'"):
        serve(Settings(store=store, model="tiny", port=0, threads=1))


@pytest.mark.usefixtures("untouched")
def test_a_port_that_is_taken_is_a_failed_start(tmp_path: Path) -> None:
    """A port in use is reported before the checkpoint is loaded, with the variables to change."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(StartupError, match=r"in use.* set POLYTASK_HOST .* POLYTASK_PORT"),
    ):
        serve(Settings(store=tmp_path, port=taken.getsockname()[1]))


@pytest.mark.parametrize("host", ["203.0.113.1", "a..b"])
def test_an_address_of_another_machine_or_none_is_a_failed_start(host: str) -> None:
    """An address that this machine does not have stops the start, and the message names the host."""
    with pytest.raises(StartupError, match=f"cannot listen on host '{host}'"):
        listen(host, 0)


@pytest.mark.usefixtures("untouched")
def test_a_checkpoint_that_is_not_there_is_a_store_error(store: Path) -> None:
    """A checkpoint that does not exist raises StoreError."""
    with pytest.raises(StoreError, match="no such checkpoint"):
        serve(Settings(store=store, model="other", port=0))


@dataclass
class Listening:
    """A service on a port of this machine, in threads of this process."""

    worker: Worker
    port: int

    def num_waiting(self) -> int:
        """Number of queued rows."""
        return sum(waiting.rows for waiting in self.worker.queue.waiting()[0].values())

    def connect(self) -> socket.socket:
        """A plain socket connected to the service."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)


@contextlib.contextmanager
def listening(backend: Backend, **settings: int) -> Iterator[Listening]:
    """Serves the tiny checkpoint on a free port until the end of the block."""
    chosen = Settings(**settings)  # type: ignore[arg-type]
    worker, app = assemble(checkpoints.in_memory(), chosen, backend)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = http_server(app, chosen)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: worker.ready)
            yield Listening(worker, listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


def request(task: str, content: bytes, *headers: str) -> bytes:
    """The bytes of a request."""
    lines = [f"POST /v1/tasks/{task}/predict HTTP/1.1", "Host: test", *headers, "", ""]
    return "\r\n".join(lines).encode() + content


def test_a_closed_connection_removes_its_rows_from_the_queue() -> None:
    """Rows of a client that closes its connection are never run."""
    backend = GatedBackend()
    content = body("cat", "paris")
    posted = request("topics", content, f"Content-Length: {len(content)}")
    with listening(backend) as started:
        before = len(backend.batches)
        backend.shut()
        with started.connect() as running:
            running.sendall(posted)
            until(lambda: len(backend.batches) > before)
            taken = len(backend.batches)
            with started.connect() as dropped:
                dropped.sendall(posted)
                until(lambda: started.num_waiting() == 2)
            until(lambda: started.num_waiting() == 0)
            backend.open()
            assert running.recv(100).startswith(b"HTTP/1.1 200")
    assert len(backend.batches) == taken


@pytest.mark.parametrize("chunked", [False, True])
def test_an_endless_body_is_refused_while_it_is_still_coming(chunked: bool) -> None:
    """The service does not wait for the end of a body that is too large, with or without a declared length."""
    with listening(real_backend(), max_body_bytes=1000) as started, started.connect() as client:
        if chunked:
            client.sendall(request("mood", b"7d0\r\n" + b" " * 2000 + b"\r\n", "Transfer-Encoding: chunked"))
        else:
            client.sendall(request("mood", b" " * 2000, "Content-Length: 1000000000"))
        refused_and_closed(client, b"HTTP/1.1 413")


def test_offers_of_an_upgrade_are_declined() -> None:
    """Requests of all protocols that offer an upgrade are answered as they are, and nothing else is."""
    with listening(real_backend()) as started:
        assert set(map(tuple, statuses(("127.0.0.1", started.port)).values())) == {(200, 200, 200)}


def test_an_idle_connection_is_kept_as_long_as_the_setting_says() -> None:
    """A connection without a request is closed after `keep_alive_s`, and not by uvicorn's own timer."""
    with listening(real_backend(), keep_alive_s=1) as started, started.connect() as client:
        for _ in range(2):
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        answered = time.monotonic()
        assert client.recv(1000) == b""
        assert 0.9 < time.monotonic() - answered < 9  # which is less than a head may take


def refused_and_closed(client: socket.socket, status: bytes) -> None:
    """Checks the status of the response, and that the connection is closed."""
    response = b"".join(iter(lambda: client.recv(1000), b"")).lower()
    assert response.startswith(status.lower())
    assert b"connection: close" in response


def test_a_client_that_sends_no_body_is_not_waited_for_after_its_deadline() -> None:
    """A client that sends no body is disconnected after its deadline."""
    with listening(real_backend()) as started, started.connect() as client:
        client.sendall(request("mood", b"{", "Content-Length: 100", "Polytask-Deadline-Ms: 20"))
        refused_and_closed(client, b"HTTP/1.1 504")
