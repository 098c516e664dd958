"""Score table: the scores of a version for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table

from polytask.training.evaluation.metrics import Scores


def scores_table(scores: Mapping[str, Scores], others: Mapping[str, Scores], beside: str = "trivial baseline") -> Table:
    """Every metric of every task beside its value in `others` if it has one, for a terminal of 80 columns."""
    headings = ("task", "metric", "validation", beside)
    table = Table(*headings, title="validation", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for task, task_scores in scores.items():
        for index, (metric, value) in enumerate(task_scores.items()):
            other = others[task].get(metric)
            table.add_row("" if index else task, metric, f"{value:.4f}", "" if other is None else f"{other:.4f}")
    return table
