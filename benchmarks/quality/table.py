"""The results of a suite as Markdown: a row a method, mean and spread over seeds, beside the cost."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.methods import METHODS

Line = dict[str, Any]


def render(path: Path) -> str:
    """The tables of one file of results. A method's seed counts once all of its tasks are there.

    A simple model's mean is over the tasks that it can answer.
    """
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    tasks = list(dict.fromkeys(task for line in sorted(lines, key=_size, reverse=True) for task in line["tasks"]))
    rows, costs = [], []
    for method in METHODS.values():
        own = [line for line in lines if line["method"] == method.name]
        answered = {task for line in own for task in line["tasks"]} if method.simple else set(tasks)
        seeds = _by_seed(own, [task for task in tasks if task in answered])
        if seeds:
            rows.append(_scores_row(method.title, seeds, tasks))
            costs.append(_cost_row(method.title, seeds))
    return "\n".join(
        [
            _row(["method", "seeds", "mean", "sd of seeds", "sigma over tasks", *tasks]),
            _rule(5 + len(tasks)),
            *rows,
            "",
            _row(["method", "examples", "added", "trainable", "models", "minutes", "examples/s", "commits"]),
            _rule(8),
            *costs,
        ]
    )


def _size(line: Line) -> int:
    return len(line["tasks"])


def _by_seed(lines: Sequence[Line], tasks: Sequence[str]) -> list[list[Line]]:
    """The lines of each seed that has all tasks."""
    seeds: dict[int, list[Line]] = defaultdict(list)
    for line in lines:
        seeds[line["seed"]].append(line)
    return [own for _, own in sorted(seeds.items()) if sum(len(line["tasks"]) for line in own) == len(tasks)]


def _main_scores(lines: Sequence[Line]) -> dict[str, float]:
    return {task: 100 * next(iter(own.values())) for line in lines for task, own in line["scores"].items()}


def _scores_row(title: str, seeds: Sequence[Sequence[Line]], tasks: Sequence[str]) -> str:
    scores = [_main_scores(lines) for lines in seeds]
    means = [statistics.fmean(own.values()) for own in scores]
    spread = f"{statistics.stdev(means):.2f}" if len(means) > 1 else "-"
    by_task = {task: statistics.fmean(own[task] for own in scores) for task in tasks if task in scores[0]}
    sigma = statistics.pstdev(by_task.values()) if len(by_task) > 1 else 0.0
    numbers = (statistics.fmean(means), spread, sigma, *(by_task.get(task, "-") for task in tasks))
    return _row([title, str(len(seeds)), *(n if isinstance(n, str) else f"{n:.2f}" for n in numbers)])


def _cost_row(title: str, seeds: Sequence[Sequence[Line]]) -> str:
    def mean(key: str) -> float:
        return statistics.fmean(sum(line[key] for line in lines) for lines in seeds)

    added = mean("added") / statistics.fmean(line["backbone"] for lines in seeds for line in lines)
    commits = sorted({(line["commit"] or "unknown")[:12] for lines in seeds for line in lines})
    return _row(
        [
            title,
            f"{mean('examples'):,.0f}",
            f"{added:.1%}",
            f"{mean('trainable'):,.0f}",
            str(len(seeds[0])),
            f"{mean('seconds') / 60:.1f}",
            f"{mean('examples') / mean('seconds'):.0f}",
            ", ".join(commits),
        ]
    )


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return _row(["---", *["---:"] * (columns - 1)])
