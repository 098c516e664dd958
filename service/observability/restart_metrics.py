"""Restart metrics: how often the supervisor has started a process again that died or hung."""

from __future__ import annotations

from prometheus_client import Counter

from polytask.service.observability.metric_storage import MetricStorage

_PROCESSES = ("engine", "frontend")


class RestartMetrics:
    """Restarts by kind of process; 0 where there is only one process."""

    def __init__(self, storage: MetricStorage) -> None:
        restarts = Counter(
            "polytask_process_restarts_total",
            "Processes that died or hung and were started again.",
            ["process"],
            registry=storage.registry,
        )
        self._by_kind = {kind: restarts.labels(kind) for kind in _PROCESSES}

    def restarted(self, name: str) -> None:
        """Counts a restart of the process of this name, such as `engine-0`."""
        self._by_kind[name.partition("-")[0]].inc()
