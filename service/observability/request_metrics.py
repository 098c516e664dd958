"""Request metrics by task: outcomes, durations, rejections, and the rows and tokens that requests bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import Gauge

from polytask.model.encoding import Encoding
from polytask.service.errors import ServiceError
from polytask.service.observability.metric_storage import MetricStorage
from polytask.service.observability.prediction_metrics import PredictionMetrics
from polytask.service.observability.task_metrics import TaskMetrics

UNKNOWN_TASK = "_unknown"
"""The task of requests for a task that is not served."""

DEADLINE, DISCONNECT = "deadline", "disconnect"
"""Why rows leave the queue without running."""

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

_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SHORT_SECONDS = (0.0001, 0.00025, 0.0005, *_SECONDS)
_LENGTHS = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512)


class RequestMetrics:
    """What happens to requests and their rows, by task. An *input* is a row here: a ranking has one per candidate.

    `predictions`: counts what is answered; None where the settings do not ask for it.
    """

    def __init__(
        self, storage: MetricStorage, tasks: Sequence[str], predictions: PredictionMetrics | None = None
    ) -> None:
        self.predictions = predictions
        self.in_flight = Gauge(
            "polytask_requests_in_flight",
            "Requests being worked on.",
            registry=storage.registry,
            multiprocess_mode="livesum",
        )
        self._by_task = TaskMetrics(storage.cells("requests"))
        counter, histogram = self._by_task.counter, self._by_task.histogram
        self._ended = counter("polytask_requests_total", "Requests, by how they ended.", "outcome")
        self._seconds = histogram("polytask_request_duration_seconds", "Seconds from arrival to answer.", _SECONDS)
        self._stages = histogram(
            "polytask_stage_duration_seconds", "Seconds of a request by stage.", SHORT_SECONDS, "stage"
        )
        self._rejections = counter("polytask_rejections_total", "Requests refused, by reason.", "reason")
        self._inputs = counter("polytask_inputs_total", "Rows put into the queue.")
        self._tokens = counter("polytask_input_tokens_total", "Tokens of the rows put into the queue.")
        self._lengths = histogram("polytask_input_length_tokens", "Tokens of a row.", _LENGTHS)
        self._truncated = counter("polytask_truncated_inputs_total", "Rows that were too long.")
        self._truncated_tokens = counter("polytask_truncated_tokens_total", "Tokens that were cut off.")
        self._dropped = counter("polytask_dropped_inputs_total", "Rows that left the queue without running.", "reason")
        for task in (*tasks, UNKNOWN_TASK):
            self.register(task)

    def admitted(self, task: str, encodings: Sequence[Encoding]) -> None:
        """Counts rows that were queued."""
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
        """Counts rows that left the queue without running."""
        self._dropped(task, reason).inc(num_rows)

    def answered(self, task: str, stages: Mapping[str, float], seconds: float) -> None:
        """Counts a request that was answered. `stages`: seconds of each."""
        self._ended(task, "ok").inc()
        self._seconds(task).observe(seconds)
        for stage, duration in stages.items():
            self._stages(task, stage).observe(duration)

    def failed(self, task: str, error: ServiceError, seconds: float) -> None:
        """Counts a request that was refused or failed."""
        self._ended(task, error.outcome).inc()
        self._seconds(task).observe(seconds)
        if error.rejection:
            self._rejections(task, error.rejection).inc()

    def register(self, task: str) -> None:
        """Adds all series of a task, at 0 where they are new."""
        for family, labels in (
            (self._ended, _OUTCOMES),
            (self._rejections, _REJECTIONS),
            (self._dropped, (DEADLINE, DISCONNECT)),
        ):
            for label in labels:
                family.register(task, label)
        for stage in _STAGES:
            self._stages.register(task, stage)
        self._seconds.register(task)
        self._lengths.register(task)
        for counter in (self._inputs, self._tokens, self._truncated, self._truncated_tokens):
            counter.register(task)

    def remove(self, task: str) -> None:
        """Removes all series of a task."""
        self._by_task.remove(task)

    def page(self) -> str:
        """The metrics by task in Prometheus' text format."""
        return self._by_task.page()
