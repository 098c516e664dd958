"""The service in one process: checkpoint, runner, worker and predictor put together behind a port."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from polytask.model.encoding import InputEncoder
from polytask.model_store.load import Checkpoint
from polytask.service.api.task_info import example_input
from polytask.service.backends.contract import Backend
from polytask.service.backends.device import memory_of
from polytask.service.backends.forward import Forward
from polytask.service.backends.shape_buckets import MOST_ROWS
from polytask.service.config.settings import Settings
from polytask.service.config.task_policies import by_task_id
from polytask.service.engine.warmup import BatchTimeTarget, warm_up
from polytask.service.engine.worker import Worker
from polytask.service.observability.metrics import Metrics
from polytask.service.scheduling.queue import BatchLimits, FairQueue

_MOST_TOKENS = 262_144
"""In a batch, however fast the device is: its memory has an end."""


def build_worker(
    checkpoint: Checkpoint,
    encoder: InputEncoder,
    settings: Settings,
    backend: Backend,
    metrics: Metrics,
    on_exit: Callable[[], None],
    known: BatchLimits | None = None,
) -> Worker:
    """The worker of a device, not started: the same for one process and for an engine process.

    `known`: limits that were calibrated before.
    """
    manifest = checkpoint.manifest
    limits = known or batch_limits(settings, backend.device)
    metrics.track_memory(*memory_of(backend.device))
    first = manifest.tasks[0]
    return Worker(
        FairQueue(limits, by_task_id(settings.policies, [task.name for task in manifest.tasks])),
        Forward(backend, manifest.tasks, encoder.pad_id),
        metrics,
        probe_row=(0, encoder.encode(first, [example_input(first, manifest)])[0][0]),
        warm_up=partial(
            warm_up,
            tasks=manifest.tasks,
            encoder=encoder,
            goldens=manifest.goldens,
            limits=limits,
            precision=backend.precision,
            target=None if known else calibration_target(settings, backend.device),
            golden_check=metrics.device.golden_check,
        ),
        on_exit=on_exit,
    )


def batch_limits(settings: Settings, device: str) -> BatchLimits:
    """The limits in the settings; where they leave it open, what suits the device, before it is calibrated.

    A forward by itself costs as much as a few dozen tokens on a CPU, and as much as some thousands on a GPU.
    """
    max_rows, token_budget, forward_tokens = (MOST_ROWS, 32_768, 2048) if device == "cuda" else (32, 1024, 32)
    return BatchLimits(
        max_rows=settings.max_rows or max_rows,
        token_budget=settings.token_budget or token_budget,
        forward_tokens=forward_tokens,
        max_waiting_tokens=settings.max_waiting_tokens,
    )


def calibration_target(settings: Settings, device: str) -> BatchTimeTarget | None:
    """How long a batch may take; None where the settings say how large it may be."""
    if settings.token_budget:
        return None
    batch_ms = settings.batch_ms or (20 if device == "cuda" else 50)
    return BatchTimeTarget(batch_ms / 1000, _MOST_TOKENS)
