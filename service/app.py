"""Puts the service together: the one place where predictor and worker meet and where errors become responses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial
from http import HTTPStatus
from importlib.metadata import version

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException

from model.encoding import InputEncoder
from model_store.load import Checkpoint, load
from model_store.versions import resolve
from service.catalogue import catalogue, example_input, revision
from service.cores import available_cores
from service.errors import FieldError, InternalError, InvalidInput, Problem, ServiceError, StartupError, problem
from service.metrics import Metrics
from service.openapi import PROBLEM, complete
from service.predictor import Predictor
from service.queue import Limits, Queue
from service.routes import operation_routes, task_routes
from service.runners import Forward, Runner, TorchRunner, pick_device
from service.settings import Settings
from service.warmup import warm_up
from service.worker import Worker

logger = logging.getLogger(__name__)

_SHUTDOWN_S = 5
"""What shutting down may take beyond the longest deadline of a request."""

_PROBLEM = TypeAdapter(Problem)

_TOLD = (ServiceError, HTTPException, RequestValidationError)
"""Errors that are meant for clients."""


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then answers what was accepted.

    Raises StoreError where the checkpoint cannot be loaded, and StartupError where it cannot be served.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # First of all, because loading takes long and a taken port is a frequent mistake.
    with listen(settings.host, settings.port) as listener:
        _serve(settings, listener)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises StartupError where it cannot."""
    try:
        ((family, *_), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listener = socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        raise StartupError(
            f"cannot listen on host {host!r}, port {port}: {error}; set POLYTASK_HOST to an address of this machine and "
            "POLYTASK_PORT to a free port, or to 0 for any"
        ) from error
    address = f"[{host}]" if ":" in host else host
    logger.info("listening on http://%s:%d", address, listener.getsockname()[1])
    return listener


def _serve(settings: Settings, listener: socket.socket) -> None:
    checkpoint = load(resolve(settings.store, settings.model))
    torch.set_num_threads(settings.threads or available_cores())
    # oneDNN keeps code and buffers for every shape it meets, in the end more than the weights; a float32 forward on the
    # CPU is as fast without it.
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    runner = TorchRunner(checkpoint.network, pick_device(settings.device))
    worker, app = assemble(checkpoint, settings, runner, ended=lambda: server.handle_exit(signal.SIGTERM, None))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(settings.deadline_s) + _SHUTDOWN_S,
        )
    )
    # After a graceful end uvicorn raises the signal again; with its own handler in place the process exits with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    server.run(sockets=[listener])
    if worker.failure is not None:
        raise StartupError(f"the service has ended: {worker.failure}") from worker.failure


def assemble(
    checkpoint: Checkpoint, settings: Settings, runner: Runner, ended: Callable[[], None] = lambda: None
) -> tuple[Worker, FastAPI]:
    """The worker and the application, whose lifespan starts and stops it.

    `ended` is called from the worker's thread when it ends, for whatever reason.
    """
    manifest = checkpoint.manifest
    encoder = InputEncoder(checkpoint.tokenizer)
    metrics = Metrics(manifest.tasks)
    limits = batch_limits(settings, runner.device)
    metrics.serves(revision(manifest), runner.backend, runner.precision, runner.device, limits.token_budget)
    first = manifest.tasks[0]
    worker = Worker(
        Queue(limits),
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
        ),
        ended=ended,
    )
    predictor = Predictor(manifest.tasks, encoder, worker, metrics.requests, settings, revision(manifest))
    return worker, _application(checkpoint, settings, worker, predictor, metrics)


def batch_limits(settings: Settings, device: str) -> Limits:
    """The limits in the settings; where they leave it open, what suits the device.

    On a CPU padding costs as much as text, and a forward by itself as much as a few dozen tokens. On a GPU a short
    batch takes as long as a long one, so any padding is better than another forward.
    """
    max_rows, token_budget = (256, 32_768) if device == "cuda" else (32, 1024)
    token_budget = settings.token_budget or token_budget
    return Limits(
        max_rows=settings.max_rows or max_rows,
        token_budget=token_budget,
        max_padding=token_budget if device == "cuda" else 32,
        max_waiting_tokens=settings.max_waiting_tokens,
    )


def _application(
    checkpoint: Checkpoint, settings: Settings, worker: Worker, predictor: Predictor, metrics: Metrics
) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        if not await asyncio.to_thread(worker.stop, _SHUTDOWN_S):
            logger.error("a batch is still running after %d s; it is abandoned", _SHUTDOWN_S)
        predictor.close()

    def page() -> bytes:
        waiting, oldest_s = worker.waiting()
        return metrics.page(waiting, oldest_s, ready=worker.ready)

    tasks = catalogue(checkpoint.manifest, settings)
    app = FastAPI(
        title="Polytask",
        description="Many NLP tasks from one conditional multi-task transformer.",
        version=version("polytask"),
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.include_router(task_routes(predictor, revision(checkpoint.manifest), tasks, settings.max_body_bytes))
    app.include_router(operation_routes(worker, page))
    for error in (*_TOLD, Exception):
        app.add_exception_handler(error, _respond)
    complete(app, tasks)
    return app


async def _respond(request: Request, error: Exception) -> Response:
    """Every response that is not an answer."""
    if not isinstance(error, _TOLD):
        error = InternalError(error)
    if isinstance(error, InternalError):
        logger.error("%s %s failed, id %s", request.method, request.url.path, error.id, exc_info=error.__cause__)
    found = _problem(error)
    headers = dict(getattr(error, "headers", None) or {})
    if found.retry_after_s is not None:
        headers["Retry-After"] = str(found.retry_after_s)
    if isinstance(error, ServiceError) and error.unread:
        headers["Connection"] = "close"
    return Response(_PROBLEM.dump_json(found, exclude_none=True), found.status, headers, PROBLEM)


def _problem(error: ServiceError | HTTPException | RequestValidationError) -> Problem:
    if isinstance(error, RequestValidationError):
        wrong = [FieldError(".".join(map(str, detail["loc"])), detail["msg"]) for detail in error.errors()]
        return InvalidInput(wrong).problem()
    if isinstance(error, HTTPException):
        return problem(error.status_code, HTTPStatus(error.status_code).phrase, f"{error.detail}; /docs has all paths")
    return error.problem()
