"""The service in one process: checkpoint, runner, worker and predictor put together behind a port."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial

from fastapi import FastAPI

from polytask.model.encoding import InputEncoder
from polytask.model_store.load import Checkpoint
from polytask.model_store.manifest import Manifest
from polytask.model_store.versions import resolve
from polytask.service.api.task_info import describe_tasks, revision
from polytask.service.backends.contract import Backend
from polytask.service.backends.forward import Forward
from polytask.service.backends.selection import load_backend
from polytask.service.config.settings import SHUTDOWN_S, Settings
from polytask.service.engine.build import build_worker
from polytask.service.engine.worker import Worker
from polytask.service.errors import StartupError
from polytask.service.observability.logs import configure_logs
from polytask.service.observability.metrics import Metrics
from polytask.service.prediction.predictor import Predictor
from polytask.service.versions.manager import LoadedVersion, VersionManager
from polytask.service.versions.served import BackendInfo
from polytask.service.web.application import application
from polytask.service.web.listener import listen
from polytask.service.web.server import http_server, run_server


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then answers what was accepted.

    Raises StoreError where the checkpoint cannot be loaded, and StartupError where it cannot be served.
    """
    configure_logs("service", settings.log_format)
    # First of all, because loading takes long and a taken port is a frequent mistake.
    with listen(settings.host, settings.port) as listener:
        _serve(settings, listener)


def _serve(settings: Settings, listener: socket.socket) -> None:
    failures: list[Exception] = []

    def ended(failure: Exception | None) -> None:
        failures.extend(filter(None, [failure]))
        server.handle_exit(signal.SIGTERM, None)

    app = _application(settings, ended)
    server = http_server(app, settings)
    # After a graceful end uvicorn raises the signal again; with its own handler in place the process exits with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    run_server(server, listener)
    if failures:
        raise StartupError(f"the service has ended: {failures[0]}") from failures[0]


def _application(settings: Settings, ended: Callable[[Exception | None], None]) -> FastAPI:
    # On its own, so that nothing here holds on to the first version when another one has taken its place.
    checkpoint, backend = load_backend(settings)
    return assemble(checkpoint, settings, backend, ended)[1]


def assemble(
    checkpoint: Checkpoint,
    settings: Settings,
    backend: Backend,
    ended: Callable[[Exception | None], None] = lambda _: None,
) -> tuple[Worker, FastAPI]:
    """The first worker and the application in one process. The application's lifespan starts and stops workers.

    `ended` is called from the thread of the active version's worker when it ends, with why if it failed.
    """
    metrics = Metrics(checkpoint.manifest.tasks, predictions=settings.prediction_metrics)

    def over(revision: str) -> None:
        # Whatever becomes of another version, this one goes on.
        if revision == swaps.active.revision:
            ended(swaps.active.worker.failure)

    def open_version(reference: str, beside: LoadedVersion) -> LoadedVersion:
        return loaded(*load_backend(replace(settings, model=reference)), settings, metrics, over, beside)

    def resolved(reference: str) -> str:
        folder = resolve(settings.store, reference)
        return f"{folder.parent.name}/{folder.name}"

    first = loaded(checkpoint, backend, settings, metrics, over)
    first.report_served()
    swaps = VersionManager(first, resolved, open_version, settings.swap_tolerance, SHUTDOWN_S)

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        swaps.active.worker.start()
        yield
        await swaps.close()

    def page() -> bytes:
        active = swaps.active
        active.metrics.set_warmup(active.worker.warmup_s, active.worker.limits.token_budget)
        active.metrics.observe_queue(*active.worker.waiting(), ready=active.worker.ready)
        return active.metrics.page()

    return first.worker, application(swaps, settings, metrics.requests, page, running())


def loaded(
    checkpoint: Checkpoint,
    backend: Backend,
    settings: Settings,
    metrics: Metrics,
    ended: Callable[[str], None],
    beside: LoadedVersion | None = None,
) -> LoadedVersion:
    """A version with all that answers for it, its worker not started. `beside`: the active version, if there is one.

    `ended` is called with its name and version from the worker's thread when that ends.
    """
    manifest, encoder = checkpoint.manifest, InputEncoder(checkpoint.tokenizer)
    info = BackendInfo(backend.name, backend.precision, backend.device)
    own = metrics.of(manifest.tasks)
    # What is measured beside a version that works is wrong. One of the same build takes as long.
    limits = beside.worker.limits if beside is not None and _alike(beside, manifest, info) else None
    worker = build_worker(checkpoint, encoder, settings, backend, own, partial(ended, revision(manifest)), limits)
    return LoadedVersion(
        manifest=manifest,
        engine=worker,
        predictor=Predictor(manifest.tasks, encoder, worker, metrics.requests, settings, revision(manifest)),
        tasks=describe_tasks(manifest, settings),
        card=checkpoint.card,
        backend=info,
        worker=worker,
        encoder=encoder,
        metrics=own,
        run=Forward(backend, manifest.tasks, encoder.pad_id),
    )


def _alike(beside: LoadedVersion, manifest: Manifest, info: BackendInfo) -> bool:
    """Whether batches of a version take as long as those of another."""
    longest, other = (max(task.max_length for task in each.tasks) for each in (manifest, beside.manifest))
    return (info, manifest.network, longest) == (beside.backend, beside.manifest.network, other)
