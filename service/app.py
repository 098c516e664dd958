"""The service in one process: checkpoint, runner, worker and predictor put together behind a port."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial

from fastapi import FastAPI

from model.encoding import InputEncoder
from model_store.load import Checkpoint
from model_store.manifest import Manifest
from model_store.versions import resolve
from service.buckets import MOST_ROWS
from service.catalogue import catalogue, example_input, revision
from service.choice import load_runner
from service.errors import StartupError
from service.listening import listen
from service.logs import configure_logs
from service.memory import memory_of
from service.metrics import Metrics
from service.policies import by_task_id
from service.predictor import Predictor
from service.queue import Limits, Queue
from service.runners import Forward, Runner
from service.served import Engine
from service.settings import Settings
from service.swaps import Loaded, Swaps
from service.warmup import Target, warm_up
from service.web import SHUTDOWN_S, application, http_server, run_server
from service.worker import Worker

_MOST_TOKENS = 262_144
"""In a batch, however fast the device is: its memory has an end."""


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
    checkpoint, runner = load_runner(settings)
    return assemble(checkpoint, settings, runner, ended)[1]


def assemble(
    checkpoint: Checkpoint,
    settings: Settings,
    runner: Runner,
    ended: Callable[[Exception | None], None] = lambda _: None,
) -> tuple[Worker, FastAPI]:
    """The first worker and the application in one process. The application's lifespan starts and stops workers.

    `ended` is called from the thread of the active version's worker when it ends, with why if it failed.
    """
    metrics = Metrics(checkpoint.manifest.tasks, predictions=settings.counts_predictions)

    def over(revision: str) -> None:
        # Whatever becomes of another version, this one goes on.
        if revision == swaps.active.revision:
            ended(swaps.active.worker.failure)

    def open_version(reference: str, beside: Loaded) -> Loaded:
        return loaded(*load_runner(replace(settings, model=reference)), settings, metrics, over, beside)

    def resolved(reference: str) -> str:
        folder = resolve(settings.store, reference)
        return f"{folder.parent.name}/{folder.name}"

    first = loaded(checkpoint, runner, settings, metrics, over)
    first.serves()
    swaps = Swaps(first, resolved, open_version, settings.swap_tolerance, SHUTDOWN_S)

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        swaps.active.worker.start()
        yield
        await swaps.close()

    def page() -> bytes:
        active = swaps.active
        active.metrics.warmed(active.worker.warmup_s, active.worker.limits.token_budget)
        active.metrics.line(*active.worker.waiting(), ready=active.worker.ready)
        return active.metrics.page()

    return first.worker, application(swaps, settings, metrics.requests, page, running(), swaps=swaps)


def loaded(
    checkpoint: Checkpoint,
    runner: Runner,
    settings: Settings,
    metrics: Metrics,
    ended: Callable[[str], None],
    beside: Loaded | None = None,
) -> Loaded:
    """A version with all that answers for it, its worker not started. `beside`: the active version, if there is one.

    `ended` is called with its name and version from the worker's thread when that ends.
    """
    manifest, encoder = checkpoint.manifest, InputEncoder(checkpoint.tokenizer)
    engine = Engine(runner.backend, runner.precision, runner.device)
    own = metrics.of(manifest.tasks)
    # What is measured beside a version that works is wrong. One of the same build takes as long.
    limits = beside.worker.limits if beside is not None and _alike(beside, manifest, engine) else None
    worker = build_worker(checkpoint, encoder, settings, runner, own, partial(ended, revision(manifest)), limits)
    return Loaded(
        manifest=manifest,
        desk=worker,
        predictor=Predictor(manifest.tasks, encoder, worker, metrics.requests, settings, revision(manifest)),
        tasks=catalogue(manifest, settings),
        card=checkpoint.card,
        engine=engine,
        worker=worker,
        encoder=encoder,
        metrics=own,
        run=Forward(runner, manifest.tasks, encoder.pad_id),
    )


def _alike(beside: Loaded, manifest: Manifest, engine: Engine) -> bool:
    """Whether batches of a version take as long as those of another."""
    longest, other = (max(task.max_length for task in each.tasks) for each in (manifest, beside.manifest))
    return (engine, manifest.network, longest) == (beside.engine, beside.manifest.network, other)


def build_worker(
    checkpoint: Checkpoint,
    encoder: InputEncoder,
    settings: Settings,
    runner: Runner,
    metrics: Metrics,
    ended: Callable[[], None],
    known: Limits | None = None,
) -> Worker:
    """The worker of a device, not started: the same for one process and for an engine process.

    `known`: limits that were calibrated before.
    """
    manifest = checkpoint.manifest
    limits = known or batch_limits(settings, runner.device)
    metrics.watch_memory(*memory_of(runner.device))
    first = manifest.tasks[0]
    return Worker(
        Queue(limits, by_task_id(settings.policies, [task.name for task in manifest.tasks])),
        Forward(runner, manifest.tasks, encoder.pad_id),
        metrics,
        known_good=(0, encoder.encode(first, [example_input(first, manifest)])[0][0]),
        warm_up=partial(
            warm_up,
            tasks=manifest.tasks,
            encoder=encoder,
            goldens=manifest.goldens,
            limits=limits,
            precision=runner.precision,
            target=None if known else calibration_target(settings, runner.device),
            golden_check=metrics.device.golden_check,
        ),
        ended=ended,
    )


def batch_limits(settings: Settings, device: str) -> Limits:
    """The limits in the settings; where they leave it open, what suits the device, before it is calibrated.

    A forward by itself costs as much as a few dozen tokens on a CPU, and as much as some thousands on a GPU.
    """
    max_rows, token_budget, forward_tokens = (MOST_ROWS, 32_768, 2048) if device == "cuda" else (32, 1024, 32)
    return Limits(
        max_rows=settings.max_rows or max_rows,
        token_budget=settings.token_budget or token_budget,
        forward_tokens=forward_tokens,
        max_waiting_tokens=settings.max_waiting_tokens,
    )


def calibration_target(settings: Settings, device: str) -> Target | None:
    """How long a batch may take; None where the settings say how large it may be."""
    if settings.token_budget:
        return None
    batch_ms = settings.batch_ms or (20 if device == "cuda" else 50)
    return Target(batch_ms / 1000, _MOST_TOKENS)
