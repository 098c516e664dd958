"""Dashboards: every panel is described, has a unit, and queries existing metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.operations.support.exported import ROOT, exported, queried, recorded, rules

_FOLDER = ROOT / "docker" / "grafana"
_DASHBOARDS = sorted((_FOLDER / "dashboards").glob("*.json"))


def dashboards() -> Iterator[dict[str, Any]]:
    """All dashboards."""
    for path in _DASHBOARDS:
        yield json.loads(path.read_text(encoding="utf-8"))


def panels() -> list[dict[str, Any]]:
    """All panels of all dashboards."""
    return [panel for dashboard in dashboards() for panel in dashboard["panels"]]


def queries() -> list[str]:
    """All queries of panels and variables."""
    own = [target["expr"] for panel in panels() for target in panel["targets"]]
    return own + [variable["definition"] for board in dashboards() for variable in board["templating"]["list"]]


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    """Every panel has a title, a description, a unit, and a name for each curve."""
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert all(target["legendFormat"] for target in panel["targets"])


@pytest.mark.parametrize("query", queries())
def test_a_query_asks_for_what_there_is(query: str) -> None:
    """Every query names metrics that the service exports or Prometheus records."""
    names = queried(query)
    assert names
    assert names <= exported() | set(recorded())


def test_what_is_recorded_is_used() -> None:
    """Every recording rule is used by a panel or another rule."""
    asked = queried("\n".join(queries())) | queried(
        "\n".join(line for line in rules().splitlines() if "record:" not in line)
    )
    assert set(recorded()) <= asked


def test_every_metric_is_shown() -> None:
    """Every exported metric is used in a panel or a rule."""
    looked_at = queried("\n".join(queries()) + rules())
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in exported() if name.startswith("polytask_")}
    assert {family for family in families if not any(name.startswith(family) for name in looked_at)} == set()


def test_panels_do_not_cover_each_other() -> None:
    """No two panels share a cell of the grid, and every dashboard and panel has an id of its own."""
    assert len({board["uid"] for board in dashboards()}) == len(_DASHBOARDS)
    for board in dashboards():
        cells = [
            (x, y)
            for panel in board["panels"]
            for own in [panel["gridPos"]]
            for x in range(own["x"], own["x"] + own["w"])
            for y in range(own["y"], own["y"] + own["h"])
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < 24
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_panels_name_the_provisioned_source() -> None:
    """The uid in the panels is that of the data source that comes with them."""
    source = (_FOLDER / "provisioning" / "datasources" / "prometheus.yml").read_text(encoding="utf-8")
    for panel in panels():
        assert f"uid: {panel['datasource']['uid']}\n" in source
