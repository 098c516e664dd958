"""Frontend process: HTTP, validation, tokenisation and responses; engines run the rows. Imports no torch."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from polytask.model.encoding import InputEncoder
from polytask.model_store.manifest import read_card, read_manifest
from polytask.model_store.tokenizer import load_tokenizer
from polytask.model_store.versions import resolve
from polytask.service.api.task_info import describe_tasks, revision
from polytask.service.config.settings import Settings
from polytask.service.liveness import BEAT_S
from polytask.service.observability.metric_storage import MetricStorage
from polytask.service.observability.metrics import Metrics
from polytask.service.prediction.predictor import Predictor
from polytask.service.processes.child_process import SupervisorLink, engine_socket, run_child
from polytask.service.processes.remote_engine import RemoteEngineClient
from polytask.service.versions.served import FixedVersion, ServedVersion
from polytask.service.web.application import application
from polytask.service.web.listener import Listener
from polytask.service.web.middleware.rate_limits import ProcessIndex
from polytask.service.web.server import http_server, run_server


def run_frontend(
    settings: Settings, folder: Path, number: int, listener: int, supervisor: SupervisorLink, storage: MetricStorage
) -> None:
    """Answers requests on the socket with descriptor `listener` until the supervisor ends it. Raises StoreError.

    `number`: of this process among the frontends.
    """
    version = resolve(settings.store, settings.model)
    manifest = read_manifest(version)
    encoder = InputEncoder(load_tokenizer(version, manifest))
    metrics = Metrics(manifest.tasks, storage, predictions=settings.prediction_metrics)
    sockets = [engine_socket(folder, number) for number in range(len(settings.engine_devices))]
    engine_client = RemoteEngineClient(sockets, settings.max_waiting_tokens)
    predictor = Predictor(manifest.tasks, encoder, engine_client, metrics.requests, settings, revision(manifest))

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        async with engine_client.connected():
            supervisor.report_ready()
            alive = asyncio.create_task(_report_alive(supervisor))
            yield
            alive.cancel()
        predictor.close()

    def page() -> bytes:
        metrics.observe_ready(ready=engine_client.ready)
        return metrics.page()

    process_index = ProcessIndex(folder / "rate_limits", number, settings.num_frontends)
    served = ServedVersion(
        manifest=manifest,
        engine=engine_client,
        predictor=predictor,
        task_info=describe_tasks(manifest, settings),
        card=read_card(version, manifest),
    )
    app = application(FixedVersion(served), settings, metrics.requests, page, running(), process_index)
    server = http_server(app, settings, accept_at_once=1)
    supervisor.on_shutdown(partial(setattr, server, "should_exit", True), settings)
    run_server(server, Listener(listener))


async def _report_alive(supervisor: SupervisorLink) -> None:
    while True:
        supervisor.report_alive()
        await asyncio.sleep(BEAT_S)


def main() -> None:
    """The process: `python -m polytask.service.processes.frontend FOLDER NUMBER LISTENER`, settings in the environment."""
    folder, number, listener = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

    def run(settings: Settings, supervisor: SupervisorLink, storage: MetricStorage) -> None:
        run_frontend(settings, folder, number, listener, supervisor, storage)

    run_child(f"frontend-{number}", folder, run)


if __name__ == "__main__":
    main()
