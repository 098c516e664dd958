"""Version loader: a version from the store with everything that it needs to answer requests in this process."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from polytask.model.encoding import InputEncoder
from polytask.model_store.load import Checkpoint
from polytask.model_store.manifest import Manifest
from polytask.model_store.versions import resolve
from polytask.service.api.task_info import describe_tasks, revision
from polytask.service.backends.contract import Backend
from polytask.service.backends.forward import Forward, Run
from polytask.service.backends.selection import load_backend
from polytask.service.config.settings import Settings
from polytask.service.engine.build import build_worker
from polytask.service.engine.worker import Worker
from polytask.service.observability.metrics import Metrics, WorkerMetrics
from polytask.service.prediction.predictor import Predictor
from polytask.service.versions.served import BackendInfo, ServedVersion

logger = logging.getLogger(__name__)


@dataclass(eq=False, kw_only=True)
class LoadedVersion(ServedVersion):
    """A version whose worker is in this process. `metrics`: those that its worker writes; `run`: its network."""

    worker: Worker
    encoder: InputEncoder
    metrics: WorkerMetrics
    run: Run

    def report_served(self) -> None:
        """Sets the metrics of the version that is served."""
        assert self.backend is not None
        self.metrics.set_served(self.revision, self.backend.name, self.backend.precision, self.backend.device)

    def close(self, timeout_s: float) -> None:
        """Runs the queued rows and ends the threads of the version."""
        if not self.worker.stop(timeout_s):
            logger.error("a batch of %s is still running after %d s; it is abandoned", self.revision, timeout_s)
        self.predictor.close()


class VersionLoader:
    """Loads versions. `metrics`: of the service, shared by all versions."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics

    def resolve(self, reference: str) -> str:
        """Name and version of a reference. Raises StoreError."""
        folder = resolve(self._settings.store, reference)
        return f"{folder.parent.name}/{folder.name}"

    def load(self, reference: str, active: LoadedVersion) -> LoadedVersion:
        """A version beside the active one, its worker not started. Raises StoreError or StartupError."""
        return self.build(*load_backend(replace(self._settings, model=reference)), active)

    def build(self, checkpoint: Checkpoint, backend: Backend, active: LoadedVersion | None = None) -> LoadedVersion:
        """A version from its parts, its worker not started. `active`: the version that answers at present, if any."""
        manifest, encoder = checkpoint.manifest, InputEncoder(checkpoint.tokenizer)
        info = BackendInfo(backend.name, backend.precision, backend.device)
        metrics = WorkerMetrics(self._metrics, manifest.tasks)
        # A calibration beside a busy version would be wrong. Batches of an equal version take as long.
        calibrated = (
            active.worker.queue.limits if active is not None and _equally_fast(active, manifest, info) else None
        )
        worker = build_worker(checkpoint, encoder, self._settings, backend, metrics, calibrated)
        requests = self._metrics.requests
        return LoadedVersion(
            manifest=manifest,
            engine=worker,
            predictor=Predictor(manifest.tasks, encoder, worker, requests, self._settings, revision(manifest)),
            task_info=describe_tasks(manifest, self._settings),
            card=checkpoint.card,
            backend=info,
            worker=worker,
            encoder=encoder,
            metrics=metrics,
            run=Forward(backend, manifest.tasks, encoder.pad_id),
        )


def _equally_fast(active: LoadedVersion, manifest: Manifest, info: BackendInfo) -> bool:
    """Whether batches of a version take as long as those of the active one."""
    longest, other = (max(task.max_length for task in each.tasks) for each in (manifest, active.manifest))
    return (info, manifest.network, longest) == (active.backend, active.manifest.network, other)
