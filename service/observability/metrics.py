"""The `polytask_` series. Every child exists from the start; the task label takes registered names only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Protocol

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from polytask.model.answers import Answer
from polytask.model.encoding import Encoding
from polytask.model.tasks import Task, answer_labels
from polytask.service.errors import ServiceError
from polytask.service.observability.metric_storage import ProcessStorage, SharedStorage, Values
from polytask.service.observability.prediction_metrics import PredictionMetrics
from polytask.service.observability.task_metrics import TaskMetrics

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Where the library looks for the folder that processes share."""

_NAME = "PROMETHEUS_PROCESS_NAME"
"""Where the name of this process among them stands."""

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
UNKNOWN_TASK = "_unknown"

_QUEUE = "queue"
"""The suffix of the files with gauges by task."""

_PROCESSES = ("engine", "frontend")
_OUTCOMES = ("ok", "invalid", "rejected", "expired", "cancelled", "error")
_STAGES = ("tokenize", "queue", "forward", "postprocess")
_REJECTIONS = (
    "queue_full",
    "task_quota",
    "draining",
    "too_large",
    "not_ready",
    "auth",
    "rate_limited",
    "too_many_at_once",
)

_RELOADS = ("loaded", "refused", "failed", "activated", "rolled_back")

DEADLINE, DISCONNECT = "deadline", "disconnect"
"""Why rows leave the line without running."""

_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SHORT_SECONDS = (0.0001, 0.00025, 0.0005, *_SECONDS)
_LENGTHS = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TASKS = (1, 2, 3, 4, 6, 8, 12, 16)


def join_processes(folder: Path, name: str) -> None:
    """From now on this process's series lie in `folder`, and a page adds up those of all processes that do the same.

    To be called before there are any. No two processes alive have the same `name`, which has no underscore; one that
    starts where another of its name has died goes on with its counters, so that a sum never goes down.
    """
    os.environ[_FOLDER], os.environ[_NAME] = str(folder), name
    values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]


def forget_gauges(folder: Path, name: str) -> None:
    """Notes that the process of this name has died: its gauges count no longer, its counters do."""
    mark_process_dead(name, str(folder))  # type: ignore[no-untyped-call]
    (folder / f"{name}.{_QUEUE}").unlink(missing_ok=True)


def _values(suffix: str) -> Values:
    """Where the numbers by task lie: with those of the other processes if this one has joined them."""
    if _FOLDER not in os.environ:
        return ProcessStorage()
    return SharedStorage(Path(os.environ[_FOLDER]), os.environ[_NAME], suffix)


class Predicted(Protocol):
    """Where answers are counted by what they say, if anywhere."""

    def __call__(self, task: Task, answer: Answer, *, raw_scores: bool) -> None:
        """As `PredictionMetrics.observe`."""


class RestartMetrics:
    """Deaths of processes, as their supervisor counts them; 0 where there is only one process."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        restarts = Counter(
            "polytask_process_restarts_total",
            "Processes that died and were started again.",
            ["process"],
            registry=registry,
        )
        self._of = {process: restarts.labels(process) for process in _PROCESSES}

    def restarted(self, name: str) -> None:
        """The process of this name, such as `engine-0`, is started again."""
        self._of[name.partition("-")[0]].inc()


def supervisor_series(folder: Path) -> RestartMetrics:
    """The supervisor's own, in the folder of its processes, which it joins with nothing else."""
    before = values.ValueClass
    join_processes(folder, "supervisor")
    try:
        return RestartMetrics()
    finally:
        values.ValueClass = before
        del os.environ[_FOLDER]


class RequestMetrics:
    """What happens to requests and their rows, by task. An *input* is a row here: a ranking has one per candidate."""

    def __init__(self, registry: CollectorRegistry, tasks: Sequence[str]) -> None:
        series = TaskMetrics(_values("requests"))
        counter, histogram = series.counter, series.histogram
        self.remove, self.page = series.remove, series.page
        self.predicted: Predicted | None = None
        self.in_flight = Gauge(
            "polytask_requests_in_flight", "Requests being worked on.", registry=registry, multiprocess_mode="livesum"
        )
        self._ended = counter("polytask_requests_total", "Requests, by how they ended.", "outcome")
        self._seconds = histogram("polytask_request_duration_seconds", "From arrival to answer.", _SECONDS)
        self._stages = histogram("polytask_stage_duration_seconds", "Parts of that.", _SHORT_SECONDS, "stage")
        self._rejections = counter("polytask_rejections_total", "Requests refused, by reason.", "reason")
        self._inputs = counter("polytask_inputs_total", "Rows put in line.")
        self._tokens = counter("polytask_input_tokens_total", "Tokens of those rows.")
        self._lengths = histogram("polytask_input_length_tokens", "Tokens of a row.", _LENGTHS)
        self._truncated = counter("polytask_truncated_inputs_total", "Rows that were too long.")
        self._truncated_tokens = counter("polytask_truncated_tokens_total", "Tokens that were cut off.")
        self._dropped = counter("polytask_dropped_inputs_total", "Rows that left the line without running.", "reason")
        for task in (*tasks, UNKNOWN_TASK):
            self.register(task)

    def admitted(self, task: str, encodings: Sequence[Encoding]) -> None:
        """Rows were put in line."""
        truncated = [encoding.dropped_tokens for encoding in encodings if encoding.dropped_tokens]
        self._inputs(task).inc(len(encodings))
        self._tokens(task).inc(sum(map(len, encodings)))
        lengths = self._lengths(task)
        for encoding in encodings:
            lengths.observe(len(encoding))
        if truncated:
            self._truncated(task).inc(len(truncated))
            self._truncated_tokens(task).inc(sum(truncated))

    def dropped(self, task: str, reason: str, num_rows: int) -> None:
        """Rows left the line without running."""
        self._dropped(task, reason).inc(num_rows)

    def answered(self, task: str, stages: Mapping[str, float], seconds: float) -> None:
        """A request got its answers."""
        self._ended(task, "ok").inc()
        self._seconds(task).observe(seconds)
        for stage, duration in stages.items():
            self._stages(task, stage).observe(duration)

    def failed(self, task: str, error: ServiceError, seconds: float) -> None:
        """A request got a problem instead."""
        self._ended(task, error.outcome).inc()
        self._seconds(task).observe(seconds)
        if error.rejection:
            self._rejections(task, error.rejection).inc()

    def register(self, task: str) -> None:
        """All series of a task are there from now on."""
        for counted, known in (
            (self._ended, _OUTCOMES),
            (self._rejections, _REJECTIONS),
            (self._dropped, (DEADLINE, DISCONNECT)),
        ):
            for value in known:
                counted.register(task, value)
        for stage in _STAGES:
            self._stages.register(task, stage)
        self._seconds.register(task)
        self._lengths.register(task)
        for plain in (self._inputs, self._tokens, self._truncated, self._truncated_tokens):
            plain.register(task)


class DeviceMetrics:
    """What the device does, batch by batch."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.warmup = Gauge(
            "polytask_warmup_duration_seconds",
            "How long the warm-up took.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.token_budget = Gauge(
            "polytask_batch_token_budget", "Most tokens in a batch.", registry=registry, multiprocess_mode="livemax"
        )
        self._failures = Counter("polytask_batch_failures_total", "Forwards that failed.", registry=registry)
        self._out_of_memory = Counter(
            "polytask_out_of_memory_total", "Those that failed for want of memory.", registry=registry
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
            "polytask_forward_duration_seconds", "A batch on the device.", registry=registry, buckets=_SHORT_SECONDS
        )

    def observe_batch(self, task_ids: Sequence[int], lengths: Sequence[int], seconds: float) -> None:
        """A batch was run."""
        real = sum(lengths)
        self._inputs.observe(len(lengths))
        self._tasks.observe(len(set(task_ids)))
        self._real.inc(real)
        self._padding.inc(len(lengths) * max(lengths) - real)
        self._seconds.observe(seconds)

    def golden_check(self, *, passed: bool) -> None:
        """The golden examples were answered, rightly or not."""
        (self._passed if passed else self._mismatched).inc()

    def failed(self, *, out_of_memory: bool) -> None:
        """A forward failed."""
        self._failures.inc()
        self._out_of_memory.inc(out_of_memory)


class Metrics:
    """All series of one service, in a registry of their own; of several processes if this one has joined them.

    `predictions`: whether answers are counted by what they say.
    """

    def __init__(self, tasks: Sequence[Task], *, predictions: bool = False) -> None:
        def gauge(name: str, text: str, *labels: str, mode: Literal["livesum", "livemax"] = "livemax") -> Gauge:
            return Gauge(name, text, labels, registry=registry, multiprocess_mode=mode)

        # A switch of the whole process; a creation time for each series would double the page.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self._tasks = list(tasks)
        self._queued: set[str] = set()
        ProcessCollector(registry=registry)
        self.requests = RequestMetrics(registry, [task.name for task in tasks])
        self.device = DeviceMetrics(registry)
        RestartMetrics(registry)
        self._predictions = PredictionMetrics(_values("predictions"), tasks) if predictions else None
        if self._predictions is not None:
            self.requests.predicted = self._predictions.observe
        self._queue = TaskMetrics(_values(_QUEUE))
        self._queue_inputs = self._queue.gauge("polytask_queue_inputs", "Rows waiting.")
        self._queue_tokens = self._queue.gauge("polytask_queue_tokens", "Tokens waiting.")
        self._oldest = gauge("polytask_queue_oldest_seconds", "How long the oldest row waits.")
        self._memory = gauge("polytask_device_memory_bytes", "Memory of the device, by state.", "device", "state")
        self._read_memory: Callable[[], None] = lambda: None
        self._ready = gauge("polytask_ready", "1 when requests are answered.")
        self._model = gauge("polytask_model_info", "What is served.", "revision", "backend", "dtype", "device")
        gauge("polytask_build_info", "Release of polytask.", "version").labels(version("polytask")).set(1)
        self._info = gauge("polytask_task_info", "Tasks served.", "task", "kind", "num_labels")
        self.reloads = Counter(
            "polytask_reloads_total", "Changes of versions, by result.", ["result"], registry=registry
        )
        for result in _RELOADS:
            self.reloads.labels(result)
        self._register()

    def of(self, tasks: Sequence[Task]) -> Metrics:
        """The same series for the worker of another version, whose task ids mean these tasks."""
        other = copy(self)
        other._tasks = list(tasks)  # noqa: SLF001, of the same class
        return other

    def set_served(self, revision: str, backend: str, precision: str, device: str) -> None:
        """Notes what is served, on what: from now on these tasks."""
        # In a page of several processes labels cannot be taken back, and there they do not change.
        if _FOLDER not in os.environ:
            self._model.clear()
            self._info.clear()
        self._model.labels(revision, backend, precision, device).set(1)
        self._register()

    def remove(self, tasks: Iterable[str]) -> None:
        """Drops the series of tasks that no version in memory has: labels do not add up as tasks come and go."""
        for task in tasks:
            self.requests.remove(task)
            if self._predictions is not None:
                self._predictions.remove(task)
            self._queued.discard(task)
            self._queue.remove(task)

    def track_memory(self, device: str, read: Callable[[], Mapping[str, int]]) -> None:
        """From now on shows what `read` says of the memory of `device`: bytes by state."""

        def measure() -> None:
            for state, num_bytes in read().items():
                self._memory.labels(device, state).set(num_bytes)

        self._read_memory = measure
        measure()

    def admitted(self, task_id: int, encodings: Sequence[Encoding]) -> None:
        """Rows of a request were put in line."""
        self.requests.admitted(self._tasks[task_id].name, encodings)

    def dropped(self, task_id: int, reason: str, num_rows: int) -> None:
        """Rows left the line without running."""
        self.requests.dropped(self._tasks[task_id].name, reason, num_rows)

    def set_warmup(self, seconds: float, token_budget: int) -> None:
        """Notes how long the warm-up took, and the most tokens in a batch since."""
        self.device.warmup.set(seconds)
        self.device.token_budget.set(token_budget)

    def observe_queue(self, waiting: Mapping[int, tuple[int, int]], oldest_s: float, *, ready: bool) -> None:
        """Notes the rows and tokens in line, by task id, for how long the oldest row has been, and whether rows are answered."""
        by_name = {self._tasks[task_id].name: own for task_id, own in waiting.items()}
        for task in self._queued | by_name.keys():
            rows, tokens = by_name.get(task, (0, 0))
            self._queue_inputs(task).set(rows)
            self._queue_tokens(task).set(tokens)
        self._queued.clear()
        self._queued.update(by_name)
        self._oldest.set(oldest_s)
        self._ready.set(ready)
        self._read_memory()

    def page(self) -> bytes:
        """The page that Prometheus reads: of all processes if this one has joined them."""
        registry = self._registry
        if _FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        pages = [self._queue.page(), self.requests.page()]
        if self._predictions is not None:
            pages.append(self._predictions.page())
        return b"".join([prometheus_client.generate_latest(registry), *(page.encode() for page in pages)])

    def _register(self) -> None:
        for task in self._tasks:
            self._info.labels(task.name, str(task.kind), str(len(answer_labels(task)))).set(1)
            self._queue_inputs.register(task.name)
            self._queue_tokens.register(task.name)
            self.requests.register(task.name)
            if self._predictions is not None:
                self._predictions.register(task)
