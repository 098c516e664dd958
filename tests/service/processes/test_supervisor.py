"""Supervisor, frontends and engines as real processes: what is lost when one of them is killed, and what is not."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from polytask.model_store.errors import StoreError
from polytask.service.api.schemas import from_input
from polytask.service.config.api_keys import new_key
from polytask.service.config.settings import Settings
from polytask.service.engine.golden_check import agree
from polytask.service.errors import StartupError
from polytask.service.processes.shared_folder import shared_folder
from polytask.service.processes.supervisor import serve
from tests.model_store.support import stores
from tests.service.support import checkpoints
from tests.service.support.processes import PATIENCE_S, address, refused, sample, until
from tests.service.support.serving import body
from tests.service.support.upgrade_offers import statuses
from tests.support import tiny

_CLIENTS = 6


@dataclass
class Supervised:
    """A service in several processes, whose devices wait while `gate` exists. `temporary`: its TMPDIR."""

    popen: subprocess.Popen[str]
    client: httpx.Client
    gate: Path
    temporary: Path

    def children(self, module: str = "") -> list[psutil.Process]:
        """The processes that run the module, or all."""
        found = []
        for child in psutil.Process(self.popen.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                found += [child] if module in " ".join(child.cmdline()) else []
        return found

    def ready(self) -> bool:
        """Whether the service reports that it is ready."""
        return self.client.get("/readyz").status_code == 200

    def hold(self, pool: ThreadPoolExecutor, number: int) -> list[Future[int]]:
        """Blocks the device with a row of task `entities`, and queues `number` rows of `topics` behind it."""
        admitted = self.sample("inputs_total")
        self.gate.touch()
        calls = [pool.submit(self.post, "entities")]
        until(lambda: self.sample("inputs_total") == admitted + 1)
        time.sleep(0.2)  # the idle worker takes it at once
        calls += [pool.submit(self.post, "topics") for _ in range(number)]
        until(lambda: self.sample("queue_inputs") == number)
        return calls

    def post(self, task: str) -> int:
        """The status of a request with one row, over a connection of its own; 0 if the connection breaks."""
        url = f"{self.client.base_url}/v1/tasks/{task}/predict"
        try:
            response = httpx.post(url, content=body("cat"), timeout=PATIENCE_S)
        except httpx.TransportError:
            return 0
        assert response.status_code != 503 or response.headers["Retry-After"] == "1"
        return response.status_code

    def sample(self, name: str, **labels: str) -> float:
        """The sum of a metric."""
        return sample(self.client, f"polytask_{name}", **labels)


@contextlib.contextmanager
def supervised(folder: Path, *, starting: bool = False, **variables: str) -> Iterator[Supervised]:
    """A ready service of the tiny checkpoint, or one that is `starting` while the gate is shut. At the end none of its processes is left."""
    checkpoints.saved(folder / "store")
    if starting:
        (folder / "gate").touch()
    environment = {
        "GATE": str(folder / "gate"),
        "POLYTASK_STORE": str(folder / "store"),
        "POLYTASK_MODEL": "tiny",
        "POLYTASK_PORT": "0",
        "POLYTASK_THREADS": "1",
        "POLYTASK_DEADLINE_S": "100",
        "POLYTASK_DEVICES": "cpu",
        **variables,
    }
    command = [sys.executable, "-m", "tests.service.support.supervised_process", "tests.service.support.gated_engine"]
    with (
        # The folder of a test has a name that is too long for sockets.
        tempfile.TemporaryDirectory() as temporary,
        subprocess.Popen(
            command, env=os.environ | environment | {"TMPDIR": temporary}, stderr=subprocess.PIPE, text=True
        ) as popen,
    ):
        try:
            with httpx.Client(base_url=address(popen), timeout=PATIENCE_S) as client:
                service = Supervised(popen, client, folder / "gate", Path(temporary))
                until(lambda: starting or service.ready())
                yield service
        finally:
            (folder / "gate").unlink(missing_ok=True)
            popen.terminate()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    """Two frontends and an engine."""
    with supervised(tmp_path_factory.mktemp("supervised"), POLYTASK_FRONTENDS="2") as running:
        until(lambda: len(running.children("polytask.service.processes.frontend")) == 2)
        yield running


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for clients."""
    with ThreadPoolExecutor(2 * _CLIENTS) as threads:
        yield threads


def test_offers_of_an_upgrade_are_declined(service: Supervised) -> None:
    """Requests of all protocols that offer an upgrade are answered as they are, and nothing else is."""
    address = service.client.base_url.host, service.client.base_url.port or 0
    assert set(map(tuple, statuses(address).values())) == {(200, 200, 200)}


def test_the_answers_are_those_of_one_process(service: Supervised) -> None:
    """For every kind of task the answers equal the golden answers within 1e-6."""
    for golden in checkpoints.goldens():
        task = next(task for task in tiny.tasks() if task.name == golden.task)
        content = {"inputs": [from_input(task, golden.input)]}
        (found,) = service.client.post(f"/v1/tasks/{golden.task}/predict", json=content).json()["answers"]
        assert agree(golden.answer, {name: found[name] for name in golden.answer}, 1e-6)


class Load:
    """Clients that send one request after the other until stopped, and count the statuses."""

    def __init__(self, service: Supervised, pool: ThreadPoolExecutor) -> None:
        self.statuses: Counter[int] = Counter()
        self._service = service
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._clients = [pool.submit(self._ask) for _ in range(_CLIENTS)]

    def stop(self) -> None:
        """Returns when the last answer has arrived."""
        self._stopped.set()
        for client in self._clients:
            client.result()

    def more(self, status: int, number: int) -> None:
        """Waits for `number` more answers with this status."""
        before = self.statuses[status]
        until(lambda: self.statuses[status] >= before + number)

    def _ask(self) -> None:
        with httpx.Client(base_url=self._service.client.base_url, timeout=PATIENCE_S) as client:
            while not self._stopped.is_set():
                response = client.post("/v1/tasks/mood/predict", content=body("cat", "the cat sat"))
                with self._lock:
                    self.statuses[response.status_code] += 1
                if response.status_code == 503:
                    assert response.headers["Retry-After"] == "1"
                    time.sleep(0.05)


def outcomes(service: Supervised) -> Counter[str]:
    """Requests of task `mood` so far, by how they ended."""
    names = ("ok", "invalid", "rejected", "expired", "cancelled", "error")
    return Counter({name: int(service.sample("requests_total", task="mood", outcome=name)) for name in names})


def test_an_engine_that_is_killed_loses_no_request_and_no_count(service: Supervised, pool: ThreadPoolExecutor) -> None:
    """Every request gets an answer or 503, the service is ready again, and the counters are the clients' own counts."""
    (engine,) = service.children("gated_engine")
    before, rows = outcomes(service), service.sample("input_length_tokens_count", task="mood")
    restarts = service.sample("process_restarts_total", process="engine")
    load = Load(service, pool)
    load.more(200, 150)
    service.gate.touch()
    until(lambda: service.sample("requests_in_flight") == _CLIENTS)
    engine.kill()
    load.more(503, _CLIENTS)
    assert not service.ready()
    # Frontends may notice the death before the supervisor does, who takes the gauges back.
    until(lambda: service.sample("ready") == 0)
    service.gate.unlink()
    load.more(200, 150)
    load.stop()
    assert service.ready()
    assert service.sample("ready") == 1
    assert service.sample("process_restarts_total", process="engine") > restarts
    assert load.statuses.keys() == {200, 503}
    assert outcomes(service) - before == Counter(ok=load.statuses[200], rejected=load.statuses[503])
    assert service.sample("requests_in_flight") == 0
    # Rows of the dead engine stay counted, and only those of rejected requests may be missing.
    admitted = service.sample("input_length_tokens_count", task="mood") - rows
    assert 2 * load.statuses[200] <= admitted <= 2 * load.statuses.total()


@pytest.mark.soak
def test_ten_thousand_requests_and_a_killed_engine_are_counted_exactly(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """With four frontends and a killed engine, all counters equal the clients' own counts."""
    asked = (
        ("mood", body("cat"), {200: "ok", 503: "rejected"}),
        ("topics", body("cat", "the cat sat"), {200: "ok", 503: "rejected"}),
        ("mood", b'{"inputs": []}', {422: "invalid", 503: "rejected"}),
        ("nobody", body("cat"), {404: "invalid"}),
    )
    counted: Counter[tuple[str, str]] = Counter()
    unavailable = 0
    indices = iter(range(10_000))
    lock = threading.Lock()

    def ask(service: Supervised) -> None:
        nonlocal unavailable
        with httpx.Client(base_url=service.client.base_url, timeout=PATIENCE_S) as client:
            while True:
                with lock:
                    index = next(indices, None)
                if index is None:
                    return
                task, content, expected = asked[index % len(asked)]
                status = client.post(f"/v1/tasks/{task}/predict", content=content).status_code
                with lock:
                    counted["_unknown" if task == "nobody" else task, expected[status]] += 1
                    unavailable += status == 503
                if status == 503:
                    time.sleep(0.02)

    with supervised(tmp_path, POLYTASK_FRONTENDS="4") as service:
        until(lambda: len(service.children("polytask.service.processes.frontend")) == 4)
        until(service.ready)
        clients = [pool.submit(ask, service) for _ in range(2 * _CLIENTS)]
        until(lambda: counted.total() >= 3000)
        (engine,) = service.children("gated_engine")
        engine.kill()
        for client in clients:
            client.result()
        assert counted.total() == 10_000
        for (task, outcome), number in counted.items():
            assert service.sample("requests_total", task=task, outcome=outcome) == number
        assert service.sample("requests_total") == service.sample("request_duration_seconds_count") == 10_000
        assert service.sample("rejections_total", reason="not_ready") == unavailable > 0
        for task in ("mood", "topics"):
            for stage in ("tokenize", "queue", "forward", "postprocess"):
                found = service.sample("stage_duration_seconds_count", task=task, stage=stage)
                assert found == counted[task, "ok"]
        assert service.sample("process_restarts_total", process="engine") == 1


def test_a_frontend_that_is_killed_loses_only_its_own_connections(
    service: Supervised, pool: ThreadPoolExecutor
) -> None:
    """When a frontend is killed, only its own rows are dropped, its counters stay, and it is restarted."""
    frontends = service.children("polytask.service.processes.frontend")
    dropped, ended = service.sample("dropped_inputs_total", reason="disconnect"), service.sample("requests_total")
    calls = service.hold(pool, 2 * _CLIENTS - 1)
    # The one with the most clients; the connection of this test's own client may be there as well.
    doomed = max(frontends, key=lambda process: len(process.net_connections("tcp")))
    doomed.kill()
    doomed.wait(PATIENCE_S)
    # A connection that has broken is replaced by one to a frontend that is alive.
    with contextlib.suppress(httpx.TransportError):
        service.client.get("/livez")
    until(lambda: sum(call.done() for call in calls) > 0)
    until(lambda: service.sample("dropped_inputs_total", reason="disconnect") > dropped)
    service.gate.unlink()
    statuses = Counter(call.result() for call in calls)
    assert statuses.keys() <= {0, 200}
    lost_in_queue = statuses[0] - (calls[0].result() == 0)
    assert service.sample("dropped_inputs_total", reason="disconnect") == dropped + lost_in_queue
    assert service.sample("requests_total") == ended + statuses[200]
    until(lambda: len(service.children("polytask.service.processes.frontend")) == 2)
    assert service.sample("requests_in_flight") == 0


def test_sigterm_answers_what_was_accepted_and_ends_every_process(
    service: Supervised, pool: ThreadPoolExecutor
) -> None:
    """After SIGTERM all running and waiting requests are answered, and no process is left."""
    children = service.children()
    calls = service.hold(pool, _CLIENTS)
    service.popen.send_signal(signal.SIGTERM)
    until(lambda: refused(service.client))
    service.gate.unlink()
    assert [call.result() for call in calls] == [200] * (_CLIENTS + 1)
    assert service.popen.wait(PATIENCE_S) == 0
    assert not any(child.is_running() for child in children)


@pytest.mark.usefixtures("hangup_ends")
def test_the_end_is_seen_before_the_port_is_closed(tmp_path: Path) -> None:
    """For POLYTASK_DRAIN_S seconds after the SIGHUP of a terminal to all processes, new requests are still answered."""
    with supervised(tmp_path, POLYTASK_FRONTENDS="2", POLYTASK_DRAIN_S="3") as service:
        for process in (*service.children(), psutil.Process(service.popen.pid)):
            process.send_signal(signal.SIGHUP)
        until(lambda: not service.ready())
        assert service.post("topics") == 200
        until(lambda: refused(service.client))
        assert service.popen.wait(PATIENCE_S) == 0
        assert not list(service.temporary.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_service_that_starts_ends_without_getting_ready(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM while an engine starts ends all processes without waiting for it, and so does the death of the supervisor."""
    with supervised(tmp_path, starting=True, POLYTASK_FRONTENDS="1", POLYTASK_DEADLINE_S="3600") as service:
        until(lambda: len(service.children()) == 2)
        children = service.children()
        service.popen.send_signal(number)
        assert service.popen.wait(PATIENCE_S) == (0 if number == signal.SIGTERM else -number)
        psutil.wait_procs(children, PATIENCE_S)
        assert not any(child.is_running() for child in children)


def test_nothing_outlives_the_supervisor(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the supervisor is killed, engines and frontends answer their accepted requests and end; its folder goes at the next start."""
    with supervised(tmp_path, POLYTASK_DEVICES="cpu,cpu", POLYTASK_FRONTENDS="1") as service:
        children = service.children()
        assert len(children) == 3
        calls = service.hold(pool, 0)
        service.popen.kill()
        service.gate.unlink()
        assert [call.result() for call in calls] == [200]
        psutil.wait_procs(children, PATIENCE_S)
        assert not any(child.is_running() for child in children)
        monkeypatch.setattr(tempfile, "tempdir", str(service.temporary))
        assert list(service.temporary.iterdir())
        with shared_folder() as folder:
            assert list(service.temporary.iterdir()) == [folder]


@pytest.mark.parametrize("hangs", ["process", "device"])
def test_an_engine_that_hangs_is_not_ready_and_is_restarted(
    hangs: str, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """A stopped engine, and one whose batch does not end: waiting requests get 503, all probes say so, a new engine follows."""
    hung_s = "1" if hangs == "device" else "inf"
    with supervised(tmp_path, POLYTASK_FRONTENDS="1", RESTART_S="8", HUNG_S=hung_s) as service:
        (engine,) = service.children("gated_engine")
        service.gate.touch()
        calls = [pool.submit(service.post, task) for task in ("entities", "topics", "mood")]
        until(lambda: service.sample("inputs_total") == 3)
        if hangs == "process":
            engine.suspend()
        assert [call.result() for call in calls] == [503] * 3
        until(lambda: not service.ready())
        for path in ("/readyz", "/v2/health/ready", "/v2/models/mood/ready"):
            assert service.client.get(path).status_code == 503
        assert service.sample("ready") == 0
        assert service.client.get("/livez").status_code == 200
        assert service.post("mood") == 503
        engine.wait(PATIENCE_S)
        service.gate.unlink()
        until(service.ready)
        assert service.children("gated_engine") != [engine]
        assert service.sample("ready") == 1
        assert service.sample("process_restarts_total", process="engine") == 1
        assert service.post("mood") == 200


def test_a_pause_of_everything_ends_nothing_and_a_hang_of_one_process_does(tmp_path: Path) -> None:
    """After a pause of all processes all go on; a frontend that alone is stopped is replaced; SIGTERM waits for none that is."""
    with supervised(tmp_path, POLYTASK_FRONTENDS="2", RESTART_S="4", POLYTASK_DEADLINE_S="3600") as service:
        until(lambda: len(service.children()) == 3)
        supervisor, before = psutil.Process(service.popen.pid), service.children()
        time.sleep(1)  # the second frontend may have just reported that it is ready
        for process in (supervisor, *before):
            process.suspend()
        time.sleep(8)
        for process in (supervisor, *before):
            process.resume()
        time.sleep(2)
        assert service.children() == before
        assert service.sample("process_restarts_total") == 0
        until(service.ready)
        service.client.close()
        (engine,), frontends = service.children("gated_engine"), service.children("processes.frontend")
        frontends[0].suspend()
        frontends[0].wait(PATIENCE_S)
        until(lambda: len(service.children("processes.frontend")) == 2)
        assert engine.is_running()
        for process in (engine, frontends[1]):
            process.suspend()
        supervisor.terminate()
        assert service.popen.wait(PATIENCE_S) == 0
        assert not list(service.temporary.iterdir())


def test_the_limits_of_a_key_hold_over_all_frontends(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """The limits of a key hold over all frontends together, also after a frontend has been restarted."""
    keys = tmp_path / "keys"
    limits = {"rare": "requests_per_s = 0.001, burst = 5", "few": "concurrent = 2"}
    made = {name: new_key(name) for name in limits}
    keys.write_text("\n".join(made[name][1].replace(" }", f", {limit} }}") for name, limit in limits.items()))

    with supervised(tmp_path, POLYTASK_FRONTENDS="3", POLYTASK_API_KEYS_FILE=str(keys)) as service:
        url = f"{service.client.base_url}/v1/tasks/mood/predict"

        def post(name: str) -> int:
            headers = {"Authorization": f"Bearer {made[name][0]}"}
            return httpx.post(url, content=body("cat"), headers=headers, timeout=PATIENCE_S).status_code

        until(lambda: len(service.children("polytask.service.processes.frontend")) == 3)
        keys.unlink()
        assert Counter(pool.map(post, ["rare"] * 20)) == {200: 5, 429: 15}
        service.gate.touch()
        calls = [pool.submit(post, "few") for _ in range(6)]
        until(lambda: sum(call.done() for call in calls) == 4)
        service.gate.unlink()
        assert Counter(call.result() for call in calls) == {200: 2, 429: 4}
        first = service.children("polytask.service.processes.frontend")[0]
        first.kill()
        first.wait(PATIENCE_S)
        until(lambda: len(service.children("polytask.service.processes.frontend")) == 3)
        until(service.ready)
        assert Counter(pool.map(post, ["rare"] * 10)) == {429: 10}
        assert Counter(pool.map(post, ["few"] * 2)) == {200: 2}


def test_a_service_outlives_its_files(tmp_path: Path) -> None:
    """Where a frontend cannot be restarted, as its version was damaged, the other one answers, however many tries fail."""
    with supervised(tmp_path, POLYTASK_FRONTENDS="2") as service:
        until(lambda: len(service.children("polytask.service.processes.frontend")) == 2)
        until(service.ready)
        (tmp_path / "store").rename(tmp_path / "away")
        doomed = service.children("polytask.service.processes.frontend")[0]
        doomed.kill()
        doomed.wait(PATIENCE_S)
        url, fifth = f"{service.client.base_url}/metrics", 'process_restarts_total{process="frontend"} 5'
        until(lambda: fifth in httpx.get(url).text)
        until(lambda: len(psutil.Process(service.popen.pid).children()) == 2)
        time.sleep(0.5)  # for the supervisor to decide
        assert service.post("topics") == 200


def test_a_damaged_version_is_a_failed_start(tmp_path: Path) -> None:
    """With several processes, too, a store error ends the start at the first try, with one line that names the file."""
    checkpoints.saved(tmp_path)
    stores.rewrite_file(tmp_path / "tiny" / "1", "card.md", b"\xff")
    shutil.copytree(tmp_path / "tiny" / "1", tmp_path / "tiny" / "5")
    for model, problem in (("tiny/1", "card.md: is not text in UTF-8"), ("tiny/5", "its manifest says tiny/1")):
        said = failed_start(tmp_path, "polytask.service.processes.engine", POLYTASK_FRONTENDS="1", POLYTASK_MODEL=model)
        assert problem in said


def failed_start(folder: Path, engine: str, **variables: str) -> str:
    """The last line of the log of a service that cannot start."""
    checkpoints.saved(folder)
    environment = {"POLYTASK_STORE": str(folder), "POLYTASK_MODEL": "tiny", "POLYTASK_PORT": "0", **variables}
    command = [sys.executable, "-m", "tests.service.support.supervised_process", engine]
    ended = subprocess.run(
        command, env=os.environ | environment, stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE_S
    )
    assert ended.returncode != 0
    return ended.stderr.strip().splitlines()[-1]


def test_a_wrong_golden_answer_ends_the_service(tmp_path: Path) -> None:
    """An engine with a wrong golden answer is not restarted, and the service ends with the message of one process."""
    said = failed_start(
        tmp_path, "tests.service.support.gated_engine", POLYTASK_FRONTENDS="1", GATE=str(tmp_path / "gate"), WRONG="1"
    )
    assert "StartupError: the service has ended: this device does not give the golden answer of task 'mood'" in said


def test_an_error_of_any_length_ends_the_service(tmp_path: Path) -> None:
    """An engine's reason is the service's reason, however long it is; its end is left out."""
    said = failed_start(tmp_path, "tests.service.support.refusing_engine", POLYTASK_FRONTENDS="1")
    assert "StartupError: wrong answers: \U0001f600" in said
    assert "\U0001f600…" in said


def test_an_engine_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    """After five failed starts of an engine the service ends and says so."""
    said = failed_start(tmp_path, "tests.service.no_engine", POLYTASK_FRONTENDS="1")
    assert "StartupError: engine-0 died 5 times in a row before it was ready, the last time with exit code 1" in said


def test_what_is_wrong_before_any_process_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A taken port, a missing checkpoint and a device that may not be used raise the errors of one process."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(StartupError, match=r"in use.* set POLYTASK_HOST .* POLYTASK_PORT"),
    ):
        serve(Settings(store=tmp_path, port=taken.getsockname()[1], frontends=1))
    checkpoints.saved(tmp_path)
    with pytest.raises(StoreError, match="no such checkpoint"):
        serve(Settings(store=tmp_path, model="other", port=0, frontends=1))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with pytest.raises(StartupError, match=r"POLYTASK_DEVICES has 2, but CUDA_VISIBLE_DEVICES \(3,5\) leaves"):
        serve(Settings(store=tmp_path, model="tiny", port=0, devices="0,2"))


def test_frontends_need_no_torch() -> None:
    """Frontend and supervisor import no torch, which is most of a process's memory and start time."""
    code = "import sys, polytask.service.processes.frontend, polytask.service.processes.supervisor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE_S).returncode == 0
