"""Engine process: the one worker of a device. It takes rows from all frontends and sends back their logits.

At shutdown it first waits until the last frontend has disconnected, so that all accepted requests are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from polytask.model.answers import Logits
from polytask.model.encoding import InputEncoder
from polytask.service.api.task_info import revision
from polytask.service.backends.selection import load_backend
from polytask.service.config.settings import SHUTDOWN_S, Settings
from polytask.service.engine.build import build_worker
from polytask.service.engine.worker import Worker
from polytask.service.errors import DeadlineExceeded, InternalError, ServiceError, StartupError
from polytask.service.liveness import BEAT_S
from polytask.service.observability.metric_storage import MetricStorage
from polytask.service.observability.metrics import Metrics, WorkerMetrics
from polytask.service.observability.request_metrics import DISCONNECT
from polytask.service.pending import LoopMailbox, RowPayload
from polytask.service.prediction.engine_client import drop_reason, refusal
from polytask.service.processes.child_process import SupervisorLink, engine_socket, run_child
from polytask.service.processes.ipc import Answered, Cancel, Connection, Failed, RowLogits, Status, Submit, ToEngine
from polytask.service.scheduling.queue import Refused, Row

_TICK_S = 0.05
"""Interval between updates of the metrics and of the status that frontends get."""

_DECODER: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)

Client = Connection[ToEngine]


class _Outcome(NamedTuple):
    """The end of a request, reported by the worker's thread."""

    client: Client
    request: int
    result: Answered | ServiceError


class EngineServer:
    """Accepts rows for a worker and sends back their results, on one event loop."""

    def __init__(self, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        self._worker = worker
        self._outcomes = LoopMailbox(loop, self._send)
        self._clients: dict[Client, dict[int, list[Row[RowPayload]]]] = {}
        self._status = Status(ready=False, speed=math.inf)
        self._sent_at = 0.0

    @property
    def num_clients(self) -> int:
        """The number of connected frontends."""
        return len(self._clients)

    def connect(self) -> Client:
        """The engine's end of a new connection."""
        return Connection(_DECODER, self._received, self._disconnected, self._connected)

    def broadcast_status(self, *, ready: bool, speed: float) -> None:
        """Sends the frontends whether the engine answers and how fast it is, when that has changed, and else every second."""
        status, now = Status(ready, float(f"{speed:.2g}")), time.monotonic()
        if status != self._status or now - self._sent_at >= BEAT_S:
            self._status, self._sent_at = status, now
            for client in self._clients:
                client.send([status])

    def _connected(self, client: Client) -> None:
        self._clients[client] = {}
        client.send([self._status])

    def _received(self, client: Client, message: ToEngine) -> None:
        match message:
            case Submit(number, deadline, encoded):
                sink = _PendingRemoteRequest(client, number, len(encoded), self._outcomes.put)
                rows = []
                for index, row in enumerate(encoded):
                    encoding = row.encoding()
                    rows.append(Row(row.task_id, len(encoding), deadline, RowPayload(encoding, sink, index)))
                self._submit(client, number, rows)
            case Cancel(number, reason):
                # None: its outcome is on its way already.
                if rows := self._clients[client].pop(number, []):
                    self._worker.cancel(rows, reason)

    def _submit(self, client: Client, number: int, rows: list[Row[RowPayload]]) -> None:
        try:
            self._worker.submit(rows)
        except Refused as error:
            client.send([Failed.by(number, refusal(error))])
        else:
            # Early enough: outcomes reach this thread only after this call.
            self._clients[client][number] = rows

    def _send(self, outcomes: list[_Outcome]) -> None:
        """Sends outcomes that arrived together in one write per frontend."""
        replies: dict[Client, list[Answered | Failed]] = {}
        for client, number, result in outcomes:
            rows = self._clients.get(client, {}).pop(number, None)
            if rows is None:
                continue  # cancelled, or another row has failed before
            reply = replies.setdefault(client, [])
            if isinstance(result, ServiceError):
                self._worker.cancel(rows, drop_reason(result))
                reply.append(Failed.by(number, result))
            else:
                reply.append(result)
        for client, messages in replies.items():
            client.send(messages)

    def _disconnected(self, client: Client) -> None:
        for rows in self._clients.pop(client).values():
            self._worker.cancel(rows, DISCONNECT)


@dataclass(slots=True, eq=False)
class _PendingRemoteRequest:
    """Collects the results of a request's rows (`pending.ResultSink`)."""

    client: Client
    request: int
    missing: int
    put: Callable[[_Outcome], None]
    logits: dict[int, Logits] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, index: int, logits: Logits, started: float, ended: float) -> None:
        with self.lock:
            self.logits[index] = logits
            self.missing -= 1
            done = not self.missing
        if done:
            rows = tuple(RowLogits.of(self.logits[index]) for index in range(len(self.logits)))
            self._end(Answered(self.request, started, ended, rows))

    def expire(self) -> None:
        self._end(DeadlineExceeded("the deadline passed before all of the request was answered"))

    def fail(self, error: Exception) -> None:
        self._end(error if isinstance(error, ServiceError) else InternalError(error))

    def _end(self, result: Answered | ServiceError) -> None:
        self.put(_Outcome(self.client, self.request, result))


def run_engine(settings: Settings, socket: Path, supervisor: SupervisorLink, storage: MetricStorage) -> None:
    """Serves rows on `socket` until the supervisor ends it. Raises StoreError or StartupError."""
    checkpoint, backend = load_backend(settings)
    tasks = checkpoint.manifest.tasks
    metrics = WorkerMetrics(Metrics(tasks, storage), tasks)
    metrics.set_served(revision(checkpoint.manifest), backend.name, backend.precision, backend.device)

    async def main() -> Worker:
        loop, shutdown = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            # The loop is closed when the process has shut down already.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(shutdown.set)

        worker = build_worker(checkpoint, InputEncoder(checkpoint.tokenizer), settings, backend, metrics)
        server = EngineServer(worker, loop)
        await loop.create_unix_server(server.connect, str(socket))
        supervisor.on_shutdown(shut_down, settings)
        worker.start(shut_down)
        watching = asyncio.create_task(_watch(worker, server, supervisor))
        await shutdown.wait()
        deadline = time.monotonic() + settings.drain_s + settings.deadline_s + SHUTDOWN_S
        while server.num_clients and not worker.draining and time.monotonic() < deadline:  # noqa: ASYNC110, three things
            await asyncio.sleep(_TICK_S)
        await asyncio.to_thread(worker.stop, SHUTDOWN_S)
        watching.cancel()
        return worker

    worker = asyncio.run(main())
    if worker.failure is not None:
        raise StartupError(f"the service has ended: {worker.failure}") from worker.failure


async def _watch(worker: Worker, server: EngineServer, supervisor: SupervisorLink) -> None:
    """Publishes the worker's state to frontends, metrics and supervisor."""
    reported, alive_at = False, 0.0
    while True:
        ready = worker.ready
        server.broadcast_status(ready=ready, speed=worker.queue.speed())
        worker.update_metrics()
        if ready and not reported:
            reported = True
            supervisor.report_ready()
        if not worker.hung and time.monotonic() - alive_at >= BEAT_S:
            alive_at = time.monotonic()
            supervisor.report_alive()
        await asyncio.sleep(_TICK_S)


def main() -> None:
    """The process: `python -m polytask.service.processes.engine FOLDER NUMBER`, settings in the environment."""
    # A signal to the whole process group is meant for the supervisor, which ends the frontends first.
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, signal.SIG_IGN)
    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    socket = engine_socket(folder, number)
    run_child(
        f"engine-{number}",
        folder,
        lambda settings, supervisor, storage: run_engine(settings, socket, supervisor, storage),
    )


if __name__ == "__main__":
    main()
