"""An engine process: the one worker of a device, which takes rows from all frontends and sends back their logits.

Ends when it is told to and the last frontend has gone, so everything that they have accepted is answered before.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from polytask.service.observability.metric_storage import MetricStorage
from polytask.service.observability.metrics import Metrics, WorkerMetrics
from polytask.service.observability.request_metrics import DISCONNECT
from polytask.service.pending import LoopMailbox, RowPayload
from polytask.service.prediction.engine_client import drop_reason, refusal
from polytask.service.processes.child_process import SupervisorLink, engine_socket, run_child
from polytask.service.processes.ipc import Answered, Cancel, Connection, Failed, RowLogits, Status, Submit, ToEngine
from polytask.service.scheduling.queue import Closed, Full, Row

_TICK_S = 0.05
"""How often frontends and metrics are told what has changed."""

_RECOVERY_S = 1.0
"""How often a worker that is not ready tries again."""

_DECODER: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)

Client = Connection[ToEngine]


class _Outcome(NamedTuple):
    """How a request ended, from the worker's thread."""

    client: Client
    request: int
    result: Answered | ServiceError


class EngineServer:
    """Takes rows in for a worker and sends their results back, on one event loop."""

    def __init__(self, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        self._worker = worker
        self._outcomes = LoopMailbox(loop, self._send)
        self._clients: dict[Client, dict[int, list[Row[RowPayload]]]] = {}
        self._ready = False

    @property
    def num_clients(self) -> int:
        """Frontends that are connected."""
        return len(self._clients)

    def connect(self) -> Client:
        """The end of a new connection."""
        return Connection(_DECODER, self._received, self._disconnected, self._connected)

    def broadcast_status(self, *, ready: bool) -> None:
        """Tells the frontends whether the engine would answer, if that is news."""
        if ready != self._ready:
            self._ready = ready
            for client in self._clients:
                client.send([Status(ready)])

    def _connected(self, client: Client) -> None:
        self._clients[client] = {}
        client.send([Status(self._ready)])

    def _received(self, client: Client, message: ToEngine) -> None:
        match message:
            case Submit(number, deadline, encoded):
                ticket = _PendingRemoteRequest(client, number, len(encoded), self._outcomes.put)
                rows = []
                for place, row in enumerate(encoded):
                    encoding = row.encoding()
                    rows.append(Row(row.task_id, len(encoding), deadline, RowPayload(encoding, ticket, place)))
                self._submit(client, number, rows)
            case Cancel(number, reason):
                # None: its outcome is under way.
                if rows := self._clients[client].pop(number, []):
                    self._worker.cancel(rows, reason)

    def _submit(self, client: Client, number: int, rows: list[Row[RowPayload]]) -> None:
        try:
            self._worker.submit(rows)
        except (Full, Closed) as error:
            client.send([Failed.by(number, refusal(error))])
        else:
            # In time: its outcome reaches this thread only after this call.
            self._clients[client][number] = rows

    def _send(self, outcomes: list[_Outcome]) -> None:
        """Outcomes that have come together go out together."""
        replies: dict[Client, list[Answered | Failed]] = {}
        for client, number, result in outcomes:
            rows = self._clients.get(client, {}).pop(number, None)
            if rows is None:
                continue  # cancelled, or not the first of its rows to fail
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
    """Collects the results of a request's rows (`tickets.Receiver`)."""

    client: Client
    request: int
    missing: int
    put: Callable[[_Outcome], None]
    logits: dict[int, Logits] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, place: int, logits: Logits, started: float, ended: float) -> None:
        with self.lock:
            self.logits[place] = logits
            self.missing -= 1
            done = not self.missing
        if done:
            rows = tuple(RowLogits.of(self.logits[place]) for place in range(len(self.logits)))
            self._end(Answered(self.request, started, ended, rows))

    def expire(self) -> None:
        self._end(DeadlineExceeded("the deadline passed before all of the request was answered"))

    def fail(self, error: Exception) -> None:
        self._end(error if isinstance(error, ServiceError) else InternalError(error))

    def _end(self, result: Answered | ServiceError) -> None:
        self.put(_Outcome(self.client, self.request, result))


def run_engine(settings: Settings, socket: Path, parent: SupervisorLink, storage: MetricStorage) -> None:
    """Serves rows on `socket` until told to end. Raises StoreError or StartupError where it cannot."""
    checkpoint, backend = load_backend(settings)
    tasks = checkpoint.manifest.tasks
    metrics = WorkerMetrics(Metrics(tasks, storage), tasks)
    metrics.set_served(revision(checkpoint.manifest), backend.name, backend.precision, backend.device)

    async def main() -> Worker:
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            # The loop is closed only when there is nothing left to end.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(over.set)

        worker = build_worker(checkpoint, InputEncoder(checkpoint.tokenizer), settings, backend, metrics)
        server = EngineServer(worker, loop)
        await loop.create_unix_server(server.connect, str(socket))
        parent.on_shutdown(end)
        worker.start(end)
        watching = asyncio.create_task(_watch(worker, server, parent))
        await over.wait()
        latest = time.monotonic() + settings.drain_s + settings.deadline_s + SHUTDOWN_S
        while server.num_clients and not worker.draining and time.monotonic() < latest:  # noqa: ASYNC110, three things
            await asyncio.sleep(_TICK_S)
        await asyncio.to_thread(worker.stop, SHUTDOWN_S)
        watching.cancel()
        return worker

    worker = asyncio.run(main())
    if worker.failure is not None:
        raise StartupError(f"the service has ended: {worker.failure}") from worker.failure


async def _watch(worker: Worker, server: EngineServer, parent: SupervisorLink) -> None:
    """Spreads what the worker's thread does not say by itself."""
    reported, tried = False, time.monotonic()
    while True:
        ready = worker.ready
        server.broadcast_status(ready=ready)
        worker.update_metrics()
        if ready and not reported:
            reported = True
            parent.report_ready()
        if not ready and time.monotonic() - tried > _RECOVERY_S:
            tried = time.monotonic()
            worker.recover()
        await asyncio.sleep(_TICK_S)


def main() -> None:
    """The process: `python -m service.engine FOLDER NUMBER`, settings in the environment."""
    # Whoever signals the whole group means the supervisor, which lets the frontends end first.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    folder, place = Path(sys.argv[1]), int(sys.argv[2])
    socket = engine_socket(folder, place)
    run_child(
        f"engine-{place}", folder, lambda settings, parent, storage: run_engine(settings, socket, parent, storage)
    )


if __name__ == "__main__":
    main()
