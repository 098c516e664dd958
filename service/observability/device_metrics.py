"""Device metrics: warm-up, batches, padding, failures and golden checks of an engine."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from polytask.service.observability.metric_storage import MetricStorage
from polytask.service.observability.request_metrics import SHORT_SECONDS

_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TASKS = (1, 2, 3, 4, 6, 8, 12, 16)


class DeviceMetrics:
    """What the device does, batch by batch."""

    def __init__(self, storage: MetricStorage) -> None:
        registry = storage.registry
        self.warmup = Gauge(
            "polytask_warmup_duration_seconds",
            "Seconds that the warm-up took.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.token_budget = Gauge(
            "polytask_batch_token_budget", "Most tokens in a batch.", registry=registry, multiprocess_mode="livemax"
        )
        self._failures = Counter("polytask_batch_failures_total", "Forwards that failed.", registry=registry)
        self._out_of_memory = Counter(
            "polytask_out_of_memory_total",
            "Batches that failed because the device ran out of memory.",
            registry=registry,
        )
        checks = Counter(
            "polytask_golden_checks_total", "Checks of the golden examples.", ["result"], registry=registry
        )
        self._passed, self._mismatched = checks.labels("passed"), checks.labels("failed")
        self._inputs = Histogram("polytask_batch_inputs", "Rows in a batch.", registry=registry, buckets=_ROWS)
        self._tasks = Histogram("polytask_batch_tasks", "Tasks in a batch.", registry=registry, buckets=_TASKS)
        tokens = Counter("polytask_batch_tokens_total", "Tokens in batches.", ["kind"], registry=registry)
        self._real, self._padding = tokens.labels("real"), tokens.labels("padding")
        self._seconds = Histogram(
            "polytask_forward_duration_seconds",
            "Seconds of a batch on the device.",
            registry=registry,
            buckets=SHORT_SECONDS,
        )

    def observe_batch(self, task_ids: Sequence[int], lengths: Sequence[int], seconds: float) -> None:
        """Counts a batch that ran: the task and the tokens of each row, and its time on the device."""
        real = sum(lengths)
        self._inputs.observe(len(lengths))
        self._tasks.observe(len(set(task_ids)))
        self._real.inc(real)
        self._padding.inc(len(lengths) * max(lengths) - real)
        self._seconds.observe(seconds)

    def golden_check(self, *, passed: bool) -> None:
        """Counts a check of the golden examples."""
        (self._passed if passed else self._mismatched).inc()

    def failed(self, *, out_of_memory: bool) -> None:
        """Counts a forward that failed."""
        self._failures.inc()
        self._out_of_memory.inc(out_of_memory)
