"""Score table on a narrow terminal."""

from __future__ import annotations

import io

from rich.console import Console

from polytask.training.evaluation.score_table import scores_table
from tests.training.conftest import Workshop


def test_the_table_of_scores_fits_a_narrow_terminal(workshop: Workshop) -> None:
    """The score table with the longest metric name fits 80 columns without cut words."""
    scores = {task_data.task.name: {"pearson_spearman": 0.5} for task_data in workshop.data}
    console = Console(file=io.StringIO(), width=80)
    console.print(scores_table(scores, {"trivial": scores, "TF-IDF": scores, "frozen": {}}))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue().split()
    for task_data in workshop.data:
        assert task_data.task.name in shown
    assert [*map(shown.count, ("trivial", "TF-IDF", "frozen", "-"))] == [1, 1, 1, len(scores)]
    assert "…" not in "".join(shown)
