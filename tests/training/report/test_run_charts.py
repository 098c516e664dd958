"""Run charts: axes of learning curves, and names of thin bands."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from polytask.model.tasks import Kind
from polytask.training.report.run_charts import _spread_out, curve_chart
from polytask.training.report.tables import (
    Curve,
    task_curves,
)
from polytask.training.runs.run_reader import read_run
from tests.training.support.guesses import task_of, write_run

TASKS = [task_of(kind, f"{kind}-task".replace("_", "-")) for kind in Kind]


def test_a_curve_is_seen_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    """The axis of a curve spans losses and scores, also if there is only one of them."""
    losses, scores = [(100, 2.0), (4000, 1.0)], [(2000, 0.5)]
    for own in (Curve("t", Kind.SPAN, "f1", (), losses, 0.2), Curve("t", Kind.SPAN, "f1", scores, losses, 0.2)):
        assert ">4k</text>" in curve_chart(own).svg
    assert ">2k</text>" in curve_chart(Curve("t", Kind.SPAN, "f1", scores, ())).svg
    write_run(tmp_path, TASKS[:1])
    run = read_run(tmp_path)
    own = task_curves(run)[TASKS[0].name]
    assert own.scores[-1] == (run.examples, next(iter(run.scores[TASKS[0].name].values())))
    assert [at for at, _ in own.scores] == sorted({at for at, _ in own.scores})


@given(st.lists(st.floats(0, 1), min_size=1, max_size=43))
def test_labels_keep_apart_and_in_order(heights: list[float]) -> None:
    """Names of thin bands neither overlap nor leave the chart, and keep their order."""
    gap = 1 / (len(heights) + 1)
    moved = _spread_out(sorted(heights), gap)
    assert all(low + gap <= high + 1e-9 for low, high in pairwise(moved))
    assert moved[0] >= -1e-9
    assert moved[-1] <= 1
