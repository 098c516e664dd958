"""Single process: the whole service in one process, from the checkpoint to the port."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

from fastapi import FastAPI

from polytask.model_store.load import Checkpoint
from polytask.service.backends.contract import Backend
from polytask.service.backends.selection import load_backend
from polytask.service.config.settings import SHUTDOWN_S, Settings
from polytask.service.config.shutdown_signals import shutdown_signals
from polytask.service.engine.worker import Worker
from polytask.service.errors import StartupError
from polytask.service.observability.metrics import Metrics
from polytask.service.versions.loader import VersionLoader
from polytask.service.versions.manager import VersionManager
from polytask.service.web.application import application
from polytask.service.web.listener import listen
from polytask.service.web.server import http_server, run_server


def serve(settings: Settings) -> None:
    """Serves until a shutdown signal, then answers the requests that were accepted.

    Raises StoreError if the checkpoint cannot be loaded, and StartupError if it cannot be served.
    """
    # Before loading, because that takes long and a port in use is a frequent mistake.
    with listen(settings.host, settings.port) as listener:
        _serve(settings, listener)


def _serve(settings: Settings, listener: socket.socket) -> None:
    failures: list[Exception] = []

    def on_exit(failure: Exception | None) -> None:
        failures.extend(filter(None, [failure]))
        server.handle_exit(signal.SIGTERM, None)

    app = _application(settings, on_exit)
    server = http_server(app, settings)
    # After a graceful shutdown uvicorn raises the signal again; with its own handler in place the process exits with 0.
    for number in shutdown_signals():
        signal.signal(number, server.handle_exit)
    run_server(server, listener)
    if failures:
        raise StartupError(f"the service has ended: {failures[0]}") from failures[0]


def _application(settings: Settings, on_exit: Callable[[Exception | None], None]) -> FastAPI:
    # A function of its own, so that no variable keeps the first version in memory after another has replaced it.
    checkpoint, backend = load_backend(settings)
    return assemble(checkpoint, settings, backend, on_exit)[1]


def assemble(
    checkpoint: Checkpoint,
    settings: Settings,
    backend: Backend,
    on_exit: Callable[[Exception | None], None] = lambda _: None,
) -> tuple[Worker, FastAPI]:
    """The first worker and the application in one process. The application's lifespan starts and stops workers.

    `on_exit`: called from the thread of the active version's worker when that ends, with its failure or None.
    """
    metrics = Metrics(checkpoint.manifest.tasks, predictions=settings.prediction_metrics)
    loader = VersionLoader(settings, metrics)
    versions = VersionManager(
        loader.build(checkpoint, backend), loader, metrics, settings.swap_tolerance, SHUTDOWN_S, on_exit
    )

    def page() -> bytes:
        worker = versions.active.worker
        worker.update_metrics()
        metrics.observe_ready(ready=worker.ready)
        return metrics.page()

    return versions.active.worker, application(versions, settings, metrics.requests, page, versions.running())
