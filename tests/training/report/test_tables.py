"""Report tables: columns of the score table."""

from __future__ import annotations

from pathlib import Path

from polytask.model.tasks import Kind
from polytask.training.report.tables import (
    scores_table,
    task_scores,
)
from polytask.training.runs.run_reader import read_run
from tests.training.support.guesses import task_of, write_run

TASKS = [task_of(kind, f"{kind}-task".replace("_", "-")) for kind in Kind]


def test_without_references_there_are_no_columns_for_them(tmp_path: Path) -> None:
    """The score table has columns of references only if there are any."""
    write_run(tmp_path, TASKS[:2], finished=False)
    table = scores_table(task_scores(read_run(tmp_path)))
    assert list(table.headings) == ["task", "metric", "validation", "trivial baseline", "over the baseline"]
