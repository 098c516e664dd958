"""Worker assembly: limits, calibration target and golden check from checkpoint and settings."""

from __future__ import annotations

import pytest

from polytask.model.encoding import InputEncoder
from polytask.service.backends.contract import Backend
from polytask.service.backends.torch_cpu import TorchBackend
from polytask.service.config.settings import Settings
from polytask.service.engine.build import batch_limits, build_worker, calibration_target
from polytask.service.engine.golden_check import GoldenMismatch
from polytask.service.engine.warmup import BatchTimeTarget
from polytask.service.engine.worker import Worker
from polytask.service.errors import StartupError
from polytask.service.observability.metrics import Metrics, WorkerMetrics
from polytask.service.scheduling.queue import BatchLimits
from tests.service.support import checkpoints
from tests.service.support.doubles import real_backend
from tests.support import tiny


def build(settings: Settings, backend: Backend) -> tuple[Worker, Metrics]:
    """The worker of the tiny checkpoint, not started, and its metrics."""
    checkpoint = checkpoints.in_memory()
    metrics = Metrics(checkpoint.manifest.tasks)
    encoder, worker_metrics = InputEncoder(checkpoint.tokenizer), WorkerMetrics(metrics, checkpoint.manifest.tasks)
    return build_worker(checkpoint, encoder, settings, backend, worker_metrics), metrics


@pytest.mark.parametrize(
    ("settings", "device", "limits"),
    [
        (Settings(), "cpu", BatchLimits(32, 1024, 32, 65_536, 10)),
        (Settings(), "cuda", BatchLimits(256, 32_768, 2048, 65_536, 10)),
        (Settings(max_rows=3, token_budget=99, max_waiting_tokens=9), "cpu", BatchLimits(3, 99, 32, 9, 10)),
        (Settings(token_budget=99, deadline_s=3), "cuda", BatchLimits(256, 99, 2048, 65_536, 3)),
    ],
)
def test_batches_suit_the_device_unless_settings_say_otherwise(
    settings: Settings, device: str, limits: BatchLimits
) -> None:
    """A GPU gets larger batches than a CPU, as a forward there has a larger fixed cost."""
    assert batch_limits(settings, device) == limits


def test_the_token_budget_is_calibrated_unless_it_is_set() -> None:
    """The target is the time in the settings, or a default for the device."""
    assert calibration_target(Settings(token_budget=99), "cpu") is None
    assert calibration_target(Settings(batch_ms=5), "cpu") == BatchTimeTarget(0.005, 262_144)
    targets = {device: calibration_target(Settings(), device) for device in ("cpu", "cuda")}
    assert targets == {"cpu": BatchTimeTarget(0.05, 262_144), "cuda": BatchTimeTarget(0.02, 262_144)}


def test_a_policy_for_a_task_that_is_not_served_is_a_failed_start() -> None:
    """The message names the variable and the nearest task."""
    with pytest.raises(
        StartupError, match="POLYTASK_TASK_POLICIES: the checkpoint has no task 'mod'; did you mean 'mood'"
    ):
        build(Settings(task_policies='{"mod": {"weight": 4}}'), real_backend())


def test_a_worker_is_ready_after_the_golden_check() -> None:
    """A worker that becomes ready has passed the golden check, which is counted."""
    worker, metrics = build(Settings(token_budget=64), real_backend())
    worker.start()
    worker.wait_until_ready()
    assert worker.stop(30)
    assert 'polytask_golden_checks_total{result="passed"} 1.0' in metrics.page().decode()


def test_a_network_with_other_answers_never_gets_ready() -> None:
    """The failed golden check ends the worker and is counted."""
    worker, metrics = build(Settings(token_budget=64), TorchBackend(tiny.network(seed=1)))
    worker.start()
    with pytest.raises(GoldenMismatch):
        worker.wait_until_ready()
    assert worker.stop(30)
    assert 'polytask_golden_checks_total{result="failed"} 1.0' in metrics.page().decode()


def test_the_state_of_the_worker_is_in_the_metrics() -> None:
    """The warm-up time and the token budget are gauges of the worker."""
    worker, metrics = build(Settings(token_budget=64), real_backend())
    worker.start()
    worker.wait_until_ready()
    worker.update_metrics()
    page = metrics.page().decode()
    assert "polytask_warmup_duration_seconds 0.0\n" not in page
    assert "polytask_batch_token_budget 64.0" in page
    assert worker.stop(30)
