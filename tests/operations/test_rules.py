"""The rules: Prometheus accepts them, they fire when they should, and each alert says what to do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from polytask.service.observability.metrics import Metrics, WorkerMetrics
from tests.operations.support.exported import ROOT, RULES, alerts, exported, queried, recorded, rules
from tests.support import tiny
from tests.support.omissions import program

_TESTS = Path(__file__).with_name("rules.test.yml")
_RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")


def promtool(*arguments: str, page: bytes = b"") -> str:
    """What promtool says. Fails if it finds fault."""
    done = subprocess.run([program("promtool"), *arguments], input=page, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def test_prometheus_accepts_the_configuration_and_its_rules() -> None:
    """The scrape configuration and the rules that it names are valid."""
    assert "SUCCESS" in promtool("check", "config", str(RULES.with_name("prometheus.yml")))


def test_alerts_fire_when_they_should() -> None:
    """What rules.test.yml says of series over time, alert by alert."""
    assert "SUCCESS" in promtool("test", "rules", str(_TESTS))


def test_the_page_is_as_prometheus_wants_it() -> None:
    """Names, units and types of all series follow its conventions, help texts are there."""
    metrics = Metrics(tiny.tasks(), predictions=True)
    worker = WorkerMetrics(metrics, tiny.tasks())
    worker.set_served("tiny/1", "torch", "float32", "cpu")
    promtool("check", "metrics", page=metrics.page())


def test_rules_ask_for_what_there_is() -> None:
    """Every series in an expression is exported by the service, or recorded by another rule."""
    expressions = "\n".join(line for line in rules().splitlines() if "record:" not in line)
    assert queried(expressions) <= exported() | set(recorded())


def test_labels_in_rules_have_values_that_there_are() -> None:
    """A misspelt outcome, reason or bucket would match nothing, and the alert would never fire."""
    families = text_string_to_metric_families(Metrics(tiny.tasks()).page().decode())
    known = {pair for family in families for sample in family.samples for pair in sample.labels.items()}
    known |= {("job", "polytask"), ("state", "reserved"), ("state", "total")}
    for label, values in re.findall(r'(\w+)!?=~?"([^"]+)"', re.sub(r"description:.*", "", rules())):
        for value in values.split("|"):
            assert (label, value) in known


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_is_tested_and_has_its_place_in_the_runbook(alert: str) -> None:
    """It fires in a test, and its section says what it means, how to look, and what to do."""
    firing = rf"alertname: {alert}\n +exp_alerts:\n"
    assert re.search(firing, _TESTS.read_text(encoding="utf-8"))
    assert f"runbook_url: docs/runbook.md#{alert.lower()}\n" in rules()
    sections = re.split(r"^## ", _RUNBOOK, flags=re.MULTILINE)
    (section,) = (text for text in sections if text.startswith(f"{alert}\n"))
    for part in ("**Means.**", "**Look.**", "**Do.**"):
        assert part in section
