"""Worker assembly: queue, forward and warm-up of a device, from the checkpoint and the settings."""

from __future__ import annotations

import logging

from polytask.model.encoding import InputEncoder
from polytask.model_store.load import Checkpoint
from polytask.model_store.manifest import tasks_without_golden
from polytask.service.api.task_info import example_input
from polytask.service.backends.contract import Backend
from polytask.service.backends.device import memory_of
from polytask.service.backends.forward import Forward, Run
from polytask.service.backends.shape_buckets import MOST_ROWS
from polytask.service.config.settings import Settings
from polytask.service.config.task_policies import by_task_id
from polytask.service.engine.golden_check import TOLERANCES, GoldenMismatch, check_goldens
from polytask.service.engine.warmup import BatchTimeTarget, warm_up
from polytask.service.engine.worker import Worker
from polytask.service.observability.metrics import WorkerMetrics
from polytask.service.scheduling.queue import BatchLimits, FairQueue

logger = logging.getLogger(__name__)

_MOST_TOKENS = 262_144
"""Tokens in a batch however fast the device is: its memory is finite."""


def build_worker(
    checkpoint: Checkpoint,
    encoder: InputEncoder,
    settings: Settings,
    backend: Backend,
    metrics: WorkerMetrics,
    calibrated: BatchLimits | None = None,
) -> Worker:
    """The worker of a device, not started; the same for one process and for an engine process.

    `calibrated`: limits from an earlier calibration, to skip this one.
    """
    manifest = checkpoint.manifest
    limits = calibrated or batch_limits(settings, backend.device)
    target = None if calibrated else calibration_target(settings, backend.device)

    if unchecked := tasks_without_golden(manifest):
        logger.warning("no golden example, so the answers are not checked: %s", ", ".join(unchecked))

    def warm_up_and_check(run: Run) -> BatchLimits:
        final_limits = warm_up(run, manifest.tasks, encoder.pad_id, limits, target)
        try:
            check_goldens(run, manifest.tasks, encoder, manifest.goldens, TOLERANCES[backend.precision])
        except GoldenMismatch:
            metrics.device.golden_check(passed=False)
            raise
        metrics.device.golden_check(passed=True)
        return final_limits

    metrics.track_memory(*memory_of(backend.device))
    first = manifest.tasks[0]
    return Worker(
        FairQueue(
            limits,
            by_task_id(settings.policies, [task.name for task in manifest.tasks]),
            num_streams=backend.num_streams,
        ),
        Forward(backend, manifest.tasks, encoder.pad_id),
        metrics,
        probe_row=(0, encoder.encode(first, [example_input(first, manifest)])[0][0]),
        warm_up=warm_up_and_check,
    )


def batch_limits(settings: Settings, device: str) -> BatchLimits:
    """The limits of the settings, with defaults for the device; calibration comes later.

    The fixed cost of a forward is that of a few dozen tokens on a CPU, and of some thousands on a GPU.
    """
    max_rows, token_budget, forward_tokens = (MOST_ROWS, 32_768, 2048) if device == "cuda" else (32, 1024, 32)
    return BatchLimits(
        max_rows=settings.max_rows or max_rows,
        token_budget=settings.token_budget or token_budget,
        forward_tokens=forward_tokens,
        max_waiting_tokens=settings.max_waiting_tokens,
        deadline_s=settings.deadline_s,
    )


def calibration_target(settings: Settings, device: str) -> BatchTimeTarget | None:
    """The time that a batch may take; None where the settings limit its size instead."""
    if settings.token_budget:
        return None
    batch_ms = settings.batch_ms or (20 if device == "cuda" else 50)
    return BatchTimeTarget(batch_ms / 1000, _MOST_TOKENS)
