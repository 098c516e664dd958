"""Score table: the scores of a version for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table

from polytask.training.evaluation.metrics import Scores


def scores_table(
    scores: Mapping[str, Scores], others: Mapping[str, Mapping[str, Scores]], measured: str = "network"
) -> Table:
    """Every metric of every task beside its values in `others`, by heading, for a terminal of 80 columns.

    `measured`: the heading of `scores`. A dash stands where another has no score of a task, nothing where it lacks the metric.
    """
    table = Table("task", "metric", measured, *others, title="validation", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for task, task_scores in scores.items():
        for index, (metric, value) in enumerate(task_scores.items()):
            cells = (_cell(own, task, metric) for own in others.values())
            table.add_row("" if index else task, metric, f"{value:.4f}", *cells)
    return table


def _cell(scores: Mapping[str, Scores], task: str, metric: str) -> str:
    if task not in scores:
        return "-"
    return f"{scores[task][metric]:.4f}" if metric in scores[task] else ""
