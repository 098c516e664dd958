"""Metrics: every series exists from the start, and each counts what it names."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from polytask.model.encoding import Encoding
from polytask.service.errors import QueueFull, ServiceError
from polytask.service.observability.metrics import Metrics, WorkerMetrics
from polytask.service.observability.request_metrics import DEADLINE, UNKNOWN_TASK
from polytask.service.scheduling.queue import Waiting
from tests.support import tiny

TASKS = [task.name for task in tiny.tasks()]


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of the page, by name and labels."""
    text = metrics.page().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def metrics() -> Metrics:
    """Metrics of the tiny tasks."""
    return Metrics(tiny.tasks())


def test_every_series_is_there_from_the_start(metrics: Metrics) -> None:
    """A dashboard finds each metric, task, outcome and reason at zero before the first request."""
    values = samples(metrics)
    for task in (*TASKS, UNKNOWN_TASK):
        for outcome in ("ok", "invalid", "rejected", "expired", "cancelled", "error"):
            assert values["polytask_requests_total", (("outcome", outcome), ("task", task))] == 0
        for stage in ("tokenize", "queue", "forward", "postprocess"):
            assert values["polytask_stage_duration_seconds_count", (("stage", stage), ("task", task))] == 0
        for reason in ("deadline", "disconnect"):
            assert values["polytask_dropped_inputs_total", (("reason", reason), ("task", task))] == 0
        assert values["polytask_request_duration_seconds_count", (("task", task),)] == 0
    for task in TASKS:
        assert values["polytask_queue_inputs", (("task", task),)] == 0
    assert values["polytask_batch_tokens_total", (("kind", "padding"),)] == 0
    assert values["polytask_golden_checks_total", (("result", "failed"),)] == 0
    assert values["polytask_process_restarts_total", (("process", "engine"),)] == 0


def test_the_names_are_these(metrics: Metrics) -> None:
    """The names of all metrics are frozen, because dashboards and alerts use them."""
    families = text_string_to_metric_families(metrics.page().decode())
    assert {family.name for family in families if family.name.startswith("polytask_")} == {
        "polytask_batch_failures",
        "polytask_batch_inputs",
        "polytask_batch_tasks",
        "polytask_batch_token_budget",
        "polytask_batch_tokens",
        "polytask_build_info",
        "polytask_device_memory_bytes",
        "polytask_dropped_inputs",
        "polytask_forward_duration_seconds",
        "polytask_golden_checks",
        "polytask_input_length_tokens",
        "polytask_input_tokens",
        "polytask_inputs",
        "polytask_model_info",
        "polytask_out_of_memory",
        "polytask_process_restarts",
        "polytask_queue_inputs",
        "polytask_queue_oldest_seconds",
        "polytask_queue_tokens",
        "polytask_ready",
        "polytask_reloads",
        "polytask_rejections",
        "polytask_request_duration_seconds",
        "polytask_requests",
        "polytask_requests_in_flight",
        "polytask_stage_duration_seconds",
        "polytask_task_info",
        "polytask_truncated_inputs",
        "polytask_truncated_tokens",
        "polytask_warmup_duration_seconds",
    }


def test_every_error_has_a_series(metrics: Metrics) -> None:
    """The outcome and the rejection reason of every error have a series from the start."""
    page = metrics.page().decode()

    def kinds(error: type[ServiceError]) -> set[type[ServiceError]]:
        return {error}.union(*map(kinds, error.__subclasses__()))

    for error in kinds(ServiceError) - {ServiceError}:
        if error.rejection is not None:
            assert f'polytask_rejections_total{{reason="{error.rejection}",task="mood"}} 0.0' in page
        assert f'polytask_requests_total{{outcome="{error.outcome}",task="mood"}} 0.0' in page


def test_what_a_batch_counts(metrics: Metrics) -> None:
    """A batch counts its rows, distinct tasks, real tokens and padding."""
    metrics.device.observe_batch([0, 0, 3], [4, 10, 7], 0.2)
    values = samples(metrics)
    assert values["polytask_batch_inputs_sum", ()] == 3
    assert values["polytask_batch_tasks_sum", ()] == 2
    assert values["polytask_batch_tokens_total", (("kind", "real"),)] == 21
    assert values["polytask_batch_tokens_total", (("kind", "padding"),)] == 9
    assert values["polytask_forward_duration_seconds_sum", ()] == 0.2


def test_what_a_request_counts(metrics: Metrics) -> None:
    """A request counts rows, tokens and truncation when it is queued, and outcome, time and stages at its end."""
    task = (("task", "mood"),)
    metrics.requests.admitted("mood", [Encoding((2, 3), (0, 0)), Encoding((2, 5, 3), (0, 0, 0), dropped_tokens=4)])
    metrics.requests.answered("mood", {"queue": 0.5}, 0.75)
    metrics.requests.failed("mood", QueueFull("full"), 0.25)
    values = samples(metrics)
    assert values["polytask_inputs_total", task] == 2
    assert values["polytask_input_tokens_total", task] == values["polytask_input_length_tokens_sum", task] == 5
    assert values["polytask_truncated_inputs_total", task] == 1
    assert values["polytask_truncated_tokens_total", task] == 4
    assert values["polytask_requests_total", (("outcome", "ok"), *task)] == 1
    assert values["polytask_requests_total", (("outcome", "rejected"), *task)] == 1
    assert values["polytask_rejections_total", (("reason", "queue_full"), *task)] == 1
    assert values["polytask_request_duration_seconds_sum", task] == 1.0
    assert values["polytask_stage_duration_seconds_sum", (("stage", "queue"), *task)] == 0.5


def test_what_the_page_adds(metrics: Metrics) -> None:
    """The page has the state of the queue and of the worker at the moment of the scrape, and the served version."""
    worker = WorkerMetrics(metrics, tiny.tasks())
    worker.set_served("tiny/1", "torch", "float32", "cpu")
    worker.set_warmup(0.5, 1024)
    metrics.device.failed(out_of_memory=True)
    worker.dropped(1, DEADLINE, 1)
    metrics.device.golden_check(passed=False)
    reserved = iter((5, 6, 7))
    worker.track_memory("cuda:0", lambda: {"reserved": next(reserved)})
    worker.observe_queue({0: Waiting(1, 9)}, 2.5)
    worker.observe_queue({1: Waiting(2, 30)}, 1.5)
    metrics.observe_ready(ready=False)
    page = metrics.page().decode()
    for line in (
        'polytask_queue_inputs{task="topics"} 2.0',
        'polytask_device_memory_bytes{device="cuda:0",state="reserved"} 7.0',
        'polytask_golden_checks_total{result="failed"} 1.0',
        'polytask_queue_tokens{task="topics"} 30.0',
        'polytask_queue_tokens{task="mood"} 0.0',
        "polytask_queue_oldest_seconds 1.5",
        "polytask_ready 0.0",
        "polytask_batch_token_budget 1024.0",
        'polytask_model_info{backend="torch",device="cpu",dtype="float32",revision="tiny/1"} 1.0',
        'polytask_task_info{kind="multilabel",num_labels="3",task="topics"} 1.0',
        'polytask_task_info{kind="tagging",num_labels="2",task="entities"} 1.0',
        "polytask_batch_failures_total 1.0",
        "polytask_out_of_memory_total 1.0",
        'polytask_dropped_inputs_total{reason="deadline",task="topics"} 1.0',
    ):
        assert line in page.splitlines()
