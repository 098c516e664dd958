"""Counters and histograms by task: a task's own are found without a lock, and all of them can be forgotten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram

_Metric = TypeVar("_Metric", Counter, Histogram)


class TaskSeries:
    """Makes them in a registry. What it makes is called with a task, and the values of other labels, for the child."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._forget: list[Callable[[str], None]] = []

    def counter(self, name: str, text: str, *labels: str) -> Callable[..., Counter]:
        """A counter with the label `task` and these."""
        return self._kept(Counter(name, text, ["task", *labels], registry=self._registry))

    def histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Callable[..., Histogram]:
        """A histogram with the label `task` and these."""
        return self._kept(Histogram(name, text, ["task", *labels], registry=self._registry, buckets=buckets))

    def forget(self, task: str) -> None:
        """The series of a task are gone."""
        for forget in self._forget:
            forget(task)

    def _kept(self, metric: _Metric) -> Callable[..., _Metric]:
        # `labels` takes a lock and makes a key anew each time; there are few children, and mostly they stay.
        children = cache(metric.labels)

        def forget(task: str) -> None:
            metric.remove_by_labels({"task": task})
            children.cache_clear()

        self._forget.append(forget)
        return children
