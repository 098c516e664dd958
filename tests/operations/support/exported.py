"""Names of exported and recorded metrics, for tests that compare them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from polytask.service.observability.metrics import Metrics, WorkerMetrics
from tests.support import tiny

ROOT = Path(__file__).parents[3]
RULES = ROOT / "docker" / "prometheus" / "rules.yml"
NAME = re.compile(r"\b(?:[a-z]+:)?polytask_[a-z_]+(?::[a-z0-9_]+)?\b")
"""A metric of ours in a query: exported, or recorded, which has colons."""


@cache
def exported() -> frozenset[str]:
    """Every sample name on the page of a service that counts predictions as well."""
    metrics = Metrics(tiny.tasks(), predictions=True)
    worker = WorkerMetrics(metrics, tiny.tasks())
    worker.set_served("tiny/1", "torch", "float32", "cpu")
    worker.track_memory("cpu", lambda: {"reserved": 0})
    return names_on(metrics.page().decode())


def names_on(page: str) -> frozenset[str]:
    """Every sample name on a page."""
    return frozenset(sample.name for family in text_string_to_metric_families(page) for sample in family.samples)


@cache
def rules() -> str:
    """The text of the rules."""
    return RULES.read_text(encoding="utf-8")


def recorded() -> list[str]:
    """The names that the rules record."""
    return re.findall(r"^ +- record: (\S+)$", rules(), re.MULTILINE)


def alerts() -> list[str]:
    """The names of the alerts."""
    return re.findall(r"^ +- alert: (\S+)$", rules(), re.MULTILINE)


def queried(query: str) -> set[str]:
    """The polytask metrics named in a query."""
    return set(NAME.findall(query))
