"""The scores of a version as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table

from polytask.training.evaluation.metrics import Scores


def scores_table(scores: Mapping[str, Scores], others: Mapping[str, Scores], beside: str = "trivial baseline") -> Table:
    """Every metric of every task beside another value of it, narrow enough for a terminal of 80 columns."""
    headings = ("task", "metric", "validation", beside)
    table = Table(*headings, title="validation", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for task, own in scores.items():
        for place, (metric, value) in enumerate(own.items()):
            table.add_row("" if place else task, metric, f"{value:.4f}", f"{others[task][metric]:.4f}")
    return table
