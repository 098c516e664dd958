"""The service in one process: checkpoint, runner, worker and predictor put together behind a port."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial

from fastapi import FastAPI

from model.encoding import InputEncoder
from model_store.load import Checkpoint
from service.catalogue import example_input, revision
from service.choice import load_runner
from service.errors import StartupError
from service.listening import listen
from service.metrics import Metrics
from service.policies import by_task_id
from service.predictor import Predictor
from service.queue import Limits, Queue
from service.runners import Forward, Runner
from service.settings import Settings
from service.warmup import Target, warm_up
from service.web import SHUTDOWN_S, application, http_server, run_server
from service.worker import Worker

logger = logging.getLogger(__name__)

_MOST_TOKENS = 262_144
"""In a batch, however fast the device is: its memory has an end."""


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then answers what was accepted.

    Raises StoreError where the checkpoint cannot be loaded, and StartupError where it cannot be served.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # First of all, because loading takes long and a taken port is a frequent mistake.
    with listen(settings.host, settings.port) as listener:
        _serve(settings, listener)


def _serve(settings: Settings, listener: socket.socket) -> None:
    checkpoint, runner = load_runner(settings)
    worker, app = assemble(checkpoint, settings, runner, ended=lambda: server.handle_exit(signal.SIGTERM, None))
    server = http_server(app, settings)
    # After a graceful end uvicorn raises the signal again; with its own handler in place the process exits with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    run_server(server, listener)
    if worker.failure is not None:
        raise StartupError(f"the service has ended: {worker.failure}") from worker.failure


def assemble(
    checkpoint: Checkpoint, settings: Settings, runner: Runner, ended: Callable[[], None] = lambda: None
) -> tuple[Worker, FastAPI]:
    """The worker and the application in one process. The application's lifespan starts and stops the worker.

    `ended` is called from the worker's thread when it ends, for whatever reason.
    """
    manifest = checkpoint.manifest
    metrics = Metrics(manifest.tasks)
    encoder = InputEncoder(checkpoint.tokenizer)
    worker = build_worker(checkpoint, settings, runner, metrics, ended)
    predictor = Predictor(manifest.tasks, encoder, worker, metrics.requests, settings, revision(manifest))

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        worker.start()
        yield
        if not await asyncio.to_thread(worker.stop, SHUTDOWN_S):
            logger.error("a batch is still running after %d s; it is abandoned", SHUTDOWN_S)
        predictor.close()

    def page() -> bytes:
        metrics.line(*worker.waiting(), ready=worker.ready)
        return metrics.page()

    return worker, application(manifest, settings, worker, predictor, metrics.requests, page, running())


def build_worker(
    checkpoint: Checkpoint, settings: Settings, runner: Runner, metrics: Metrics, ended: Callable[[], None]
) -> Worker:
    """The worker of a device, not started: the same for one process and for an engine process."""
    manifest = checkpoint.manifest
    encoder = InputEncoder(checkpoint.tokenizer)
    limits = batch_limits(settings, runner.device)
    metrics.serves(revision(manifest), runner.backend, runner.precision, runner.device)
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
            target=calibration_target(settings, runner.device),
        ),
        ended=ended,
    )


def batch_limits(settings: Settings, device: str) -> Limits:
    """The limits in the settings; where they leave it open, what suits the device, before it is calibrated.

    A forward by itself costs as much as a few dozen tokens on a CPU, and as much as some thousands on a GPU.
    """
    max_rows, token_budget, forward_tokens = (256, 32_768, 2048) if device == "cuda" else (32, 1024, 32)
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
