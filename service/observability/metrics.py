"""Prometheus metrics of the service. All label combinations exist from the start.

`task` takes served names only, so clients cannot add series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Literal

import prometheus_client
from prometheus_client import Counter, Gauge

from polytask.model.encoding import Encoding
from polytask.model.tasks import Task, answer_labels
from polytask.service.observability.device_metrics import DeviceMetrics
from polytask.service.observability.metric_storage import QUEUE, MetricStorage, ProcessStorage
from polytask.service.observability.prediction_metrics import PredictionMetrics
from polytask.service.observability.request_metrics import RequestMetrics
from polytask.service.observability.restart_metrics import RestartMetrics
from polytask.service.observability.task_metrics import TaskMetrics

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

_RELOADS = ("loaded", "refused", "failed", "activated", "rolled_back")


class Metrics:
    """All metrics of a process.

    `tasks`: served at first. `storage`: by default of this process alone. `predictions`: whether answers are counted by
    label and confidence.
    """

    def __init__(
        self, tasks: Sequence[Task], storage: MetricStorage | None = None, *, predictions: bool = False
    ) -> None:
        self._storage = storage = storage or ProcessStorage()

        def gauge(
            name: str, text: str, *labels: str, mode: Literal["livesum", "livemax", "livemostrecent"] = "livemax"
        ) -> Gauge:
            return Gauge(name, text, labels, registry=storage.registry, multiprocess_mode=mode)

        self._predictions = PredictionMetrics(storage.cells("predictions"), tasks) if predictions else None
        self.requests = RequestMetrics(storage, [task.name for task in tasks], self._predictions)
        self.device = DeviceMetrics(storage)
        RestartMetrics(storage)
        self._queue = TaskMetrics(storage.cells(QUEUE))
        self._queue_inputs = self._queue.gauge("polytask_queue_inputs", "Rows waiting.")
        self._queue_tokens = self._queue.gauge("polytask_queue_tokens", "Tokens waiting.")
        self._queued: set[str] = set()
        self._oldest = gauge("polytask_queue_oldest_seconds", "Seconds that the oldest queued row has been waiting.")
        self.memory = gauge("polytask_device_memory_bytes", "Memory of the device, by state.", "device", "state")
        # Of the process that writes the page: an engine that hangs would leave the last thing that it said of itself.
        self._ready = gauge("polytask_ready", "1 when requests are answered.", mode="livemostrecent")
        self._model = gauge("polytask_model_info", "What is served.", "revision", "backend", "dtype", "device")
        gauge("polytask_build_info", "Release of polytask.", "version").labels(version("polytask")).set(1)
        self._info = gauge("polytask_task_info", "Tasks served.", "task", "kind", "num_labels")
        self.reloads = Counter(
            "polytask_reloads_total", "Changes of versions, by result.", ["result"], registry=storage.registry
        )
        for result in _RELOADS:
            self.reloads.labels(result)
        self._register(tasks)

    def set_served(self, tasks: Sequence[Task], revision: str, backend: str, precision: str, device: str) -> None:
        """Sets what is served, and on what."""
        # Labels on a shared page cannot be removed. They do not change there either.
        if not self._storage.shared:
            self._model.clear()
            self._info.clear()
        self._model.labels(revision, backend, precision, device).set(1)
        self._register(tasks)

    def remove(self, tasks: Iterable[str]) -> None:
        """Removes the series of tasks that no version in memory has, so that labels do not pile up over versions."""
        for task in tasks:
            self.requests.remove(task)
            if self._predictions is not None:
                self._predictions.remove(task)
            self._queued.discard(task)
            self._queue.remove(task)

    def observe_queue(self, waiting: Mapping[str, tuple[int, int]], oldest_s: float) -> None:
        """Sets the rows and tokens that wait, by task, and the age of the oldest row."""
        for task in self._queued | waiting.keys():
            rows, tokens = waiting.get(task, (0, 0))
            self._queue_inputs(task).set(rows)
            self._queue_tokens(task).set(tokens)
        self._queued = set(waiting)
        self._oldest.set(oldest_s)

    def observe_ready(self, *, ready: bool) -> None:
        """Sets whether requests are answered; to be called before `page` by the process that writes it."""
        self._ready.set(ready)

    def page(self) -> bytes:
        """The page for Prometheus: of all processes that share the storage."""
        pages = [self._queue.page(), self.requests.page()]
        if self._predictions is not None:
            pages.append(self._predictions.page())
        return self._storage.page() + "".join(pages).encode()

    def _register(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._info.labels(task.name, str(task.kind), str(len(answer_labels(task)))).set(1)
            self._queue_inputs.register(task.name)
            self._queue_tokens.register(task.name)
            self.requests.register(task.name)
            if self._predictions is not None:
                self._predictions.register(task)


class WorkerMetrics:
    """The metrics of one worker, whose task ids are indices of `tasks`. Workers of several versions share `metrics`."""

    def __init__(self, metrics: Metrics, tasks: Sequence[Task]) -> None:
        self.device = metrics.device
        self._metrics = metrics
        self._tasks = tasks
        self._measure_memory: Callable[[], None] = lambda: None

    def set_served(self, revision: str, backend: str, precision: str, device: str) -> None:
        """Sets that this worker's version is served, and on what."""
        self._metrics.set_served(self._tasks, revision, backend, precision, device)

    def track_memory(self, device: str, read: Callable[[], Mapping[str, int]]) -> None:
        """Reports the memory of `device` now and with the queue. `read` returns bytes by state."""

        def measure() -> None:
            for state, num_bytes in read().items():
                self._metrics.memory.labels(device, state).set(num_bytes)

        self._measure_memory = measure
        measure()

    def admitted(self, task_id: int, encodings: Sequence[Encoding]) -> None:
        """Counts rows that were queued."""
        self._metrics.requests.admitted(self._tasks[task_id].name, encodings)

    def dropped(self, task_id: int, reason: str, num_rows: int) -> None:
        """Counts rows that left the queue without running."""
        self._metrics.requests.dropped(self._tasks[task_id].name, reason, num_rows)

    def set_warmup(self, seconds: float, token_budget: int) -> None:
        """Sets how long the warm-up took, and the most tokens in a batch since."""
        self.device.warmup.set(seconds)
        self.device.token_budget.set(token_budget)

    def observe_queue(self, waiting: Mapping[int, tuple[int, int]], oldest_s: float) -> None:
        """Sets the rows and tokens that wait, by task id, and the age of the oldest row."""
        by_name = {self._tasks[task_id].name: size for task_id, size in waiting.items()}
        self._metrics.observe_queue(by_name, oldest_s)
        self._measure_memory()
