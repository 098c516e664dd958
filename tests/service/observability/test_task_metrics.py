"""Metrics by task: their page equals that of Prometheus' own library, in one process and over several."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Counter as LibraryCounter
from prometheus_client import Gauge as LibraryGauge
from prometheus_client import Histogram as LibraryHistogram
from prometheus_client.parser import text_string_to_metric_families

from polytask.service.observability.metric_storage import Cells, ProcessCells, SharedCells
from polytask.service.observability.task_metrics import TaskMetrics

BOUNDS = (0.1, 1, 2.5)
Sample = tuple[str, tuple[tuple[str, str], ...], float]


def samples(page: str) -> set[Sample]:
    """The samples of a page."""
    return {
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


events = st.lists(
    st.tuples(
        st.sampled_from(["mood", "topics"]),
        st.sampled_from(["ok", 'of "quotes", \\ and\nlines']),
        st.one_of(st.sampled_from([0.0, *BOUNDS]), st.floats(0, 100, width=32)),
    )
)


@given(events)
def test_the_page_is_that_of_the_library(happened: list[tuple[str, str, float]]) -> None:
    """After any counts, observations and settings the page has the names, types, labels and numbers of the library."""
    series, registry = TaskMetrics(ProcessCells()), CollectorRegistry()
    counter, library_counter = (
        series.counter("done_total", "What was done.", "how"),
        LibraryCounter("done_total", "What was done.", ["task", "how"], registry=registry),
    )
    histogram, library_histogram = (
        series.histogram("taken_seconds", "How long.", BOUNDS, "how"),
        LibraryHistogram("taken_seconds", "How long.", ["task", "how"], registry=registry, buckets=BOUNDS),
    )
    gauge, library_gauge = (
        series.gauge("waiting", "Who waits."),
        LibraryGauge("waiting", "Who waits.", ["task"], registry=registry),
    )
    for task, how, amount in happened:
        counter.register(task, how)
        counter(task, how).inc(amount)
        library_counter.labels(task, how).inc(amount)
        histogram.register(task, how)
        histogram(task, how).observe(amount)
        library_histogram.labels(task, how).observe(amount)
        gauge.register(task)
        gauge(task).set(amount)
        library_gauge.labels(task).set(amount)
    page, expected = series.page(), generate_latest(registry).decode()
    assert samples(page) == samples(expected)
    if happened:
        assert comments(page) == comments(expected)


def comments(page: str) -> set[str]:
    """The help and type lines of a page."""
    return {line for line in page.splitlines() if line.startswith("#") and "_created" not in line}


@pytest.fixture(params=["own", "shared"])
def cells(request: pytest.FixtureRequest, tmp_path: Path) -> Cells:
    """Both kinds of storage."""
    return ProcessCells() if request.param == "own" else SharedCells(tmp_path, "engine-0", "numbers")


def test_tasks_come_and_go(cells: Cells) -> None:
    """The page shows added and removed tasks, and a task that comes back starts at 0."""
    series = TaskMetrics(cells)
    counter = series.counter("done_total", "What was done.")
    for task in ("mood", "topics"):
        counter.register(task)
        counter(task).inc()
        assert ("done_total", (("task", task),), 1.0) in samples(series.page())
    series.remove("mood")
    assert samples(series.page()) == {("done_total", (("task", "topics"),), 1.0)}
    with pytest.raises(KeyError):
        counter("mood")
    counter.register("mood")
    assert ("done_total", (("task", "mood"),), 0.0) in samples(series.page())


def test_what_is_declared_twice_goes_on(cells: Cells) -> None:
    """Registering a series again keeps its count, so a version that is loaded again resets nothing."""
    counter = TaskMetrics(cells).counter("done_total", "What was done.")
    counter.register("mood")
    counter("mood").inc()
    child = counter("mood")
    counter.register("mood")
    assert counter("mood") is child


def test_threads_lose_nothing(cells: Cells) -> None:
    """Counts of several threads add up exactly."""
    series = TaskMetrics(cells)
    histogram = series.histogram("taken_seconds", "How long.", BOUNDS)
    histogram.register("mood")

    def observe() -> None:
        for _ in range(2000):
            histogram("mood").observe(1)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ("taken_seconds_count", (("task", "mood"),), 8000.0) in samples(series.page())


def process(folder: Path, name: str) -> tuple[TaskMetrics, Callable[[], None]]:
    """A process's metrics, and a function that counts one event."""
    series = TaskMetrics(SharedCells(folder, name, "numbers"))
    other, counter = series.counter("other_total", "Others."), series.counter("done_total", "What was done.")
    for task in ("mood", "topics"):
        other.register(task)
        counter.register(task)
    return series, lambda: counter("topics").inc()


def test_processes_add_up_and_go_on_after_a_death(tmp_path: Path) -> None:
    """Every page sums all processes, and a process that replaces a dead one continues with its numbers."""
    (tmp_path / "engine-0.others").write_bytes(b"of another suffix")
    first, count_first = process(tmp_path, "frontend-0")
    second, count_second = process(tmp_path, "frontend-1")
    count_first()
    count_second()
    again, count_again = process(tmp_path, "frontend-1")
    count_again()
    for series in (first, second, again):
        assert ("done_total", (("task", "topics"),), 3.0) in samples(series.page())
        assert ("done_total", (("task", "mood"),), 0.0) in samples(series.page())
