"""One task in a report: its metrics, its learning curve, and its diagnosis as charts with their tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polytask.model.tasks import Kind
from polytask.training.report.charts import COLOURS, Chart, Draw, render
from polytask.training.report.run_charts import curve_chart
from polytask.training.report.tables import KIND_NAMES, Curve, Table, TaskScore, number
from polytask.training.report.task_charts import columns, deciles, reliability, residuals
from polytask.training.runs.run_reader import RecordedRun

_SIZE = (360, 260)
_MARGINS = (8, 12, 38, 50)
_OUTCOMES = {Kind.MULTILABEL: "share that has the label", Kind.RANKING: "share relevant", Kind.SPAN: "mean F1"}


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A chart with what it says as a table; either may be missing."""

    title: str
    note: str
    chart: Chart | None
    table: Table | None


@dataclass(frozen=True, slots=True)
class Matrix:
    """A confusion matrix. `rows`: label, and for each answered label the count and its share of the row."""

    labels: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[int, float]]]]


@dataclass(frozen=True, slots=True)
class TaskSection:
    """All that a report says of one task."""

    task: str
    kind: str
    colour: str
    score: TaskScore
    metrics: Table
    curve: Exhibit | None
    exhibits: Sequence[Exhibit]
    matrix: Matrix | None
    mistakes: Sequence[Mapping[str, Any]]
    score_name: str


def task_section(score: TaskScore, own: Curve, run: RecordedRun) -> TaskSection:
    """What is known of the task."""
    task, diagnosis = score.task, run.diagnostics.get(score.task, {})
    baselines = run.baselines.get(task, {})
    metrics = [[name, number(value), number(baselines.get(name))] for name, value in run.scores.get(task, {}).items()]
    return TaskSection(
        task=task,
        kind=KIND_NAMES[score.kind],
        colour=COLOURS[score.kind],
        score=score,
        metrics=Table(["metric", "validation", "trivial baseline"], metrics),
        curve=_curve(own) if own.scores or own.losses else None,
        exhibits=[_exhibit(task, *parts) for parts in _exhibits(diagnosis, score.kind)],
        matrix=_matrix(diagnosis["confusion"]) if "confusion" in diagnosis else None,
        mistakes=diagnosis.get("mistakes", ()),
        score_name="distance" if score.kind is Kind.REGRESSION else "score",
    )


def _curve(own: Curve) -> Exhibit:
    rows = [[f"{at:,}", number(value)] for at, value in own.scores]
    return Exhibit(
        "Learning curve",
        "",
        curve_chart(own),
        Table(["examples", own.metric], rows) if rows else None,
    )


def _exhibit(task: str, title: str, note: str, draw: Draw | None, table: Table | None) -> Exhibit:
    chart = render(f"{task}: {title.lower()}", note, _SIZE, draw, margins=_MARGINS) if draw else None
    return Exhibit(title, note, chart, table)


_Parts = tuple[str, str, Draw | None, Table | None]
"""Title, note, what draws the chart, table."""


def _exhibits(diagnosis: Mapping[str, Any], kind: Kind) -> Iterator[_Parts]:
    """Whatever the diagnosis has, by its keys."""
    colour = COLOURS[kind]
    if "calibration" in diagnosis:
        yield _calibration(diagnosis["calibration"], colour, _OUTCOMES.get(kind, "share right"))
    if "deciles" in diagnosis:
        yield _deciles(diagnosis["deciles"], colour)
        yield _residuals(diagnosis["residuals"], diagnosis["errors"], colour)
    if "ranks" in diagnosis:
        yield _ranks(diagnosis, colour)
    if "lengths" in diagnosis:
        yield _lengths(diagnosis["lengths"], colour)
    if diagnosis.get("confused"):
        pairs = diagnosis["confused"]
        rows = [[one["right"], one["given"], f"{one['count']:,}", f"{one['share']:.1%}"] for one in pairs]
        head = ["right", "given", "count", "share of the right label"]
        yield (
            "Confused most often",
            "Of many labels the pairs that are mixed up most.",
            None,
            Table(head, rows, texts=2),
        )
    if diagnosis.get("per_label"):
        yield _per_label(diagnosis["per_label"])


def _calibration(own: Mapping[str, Any], colour: str, outcome: str) -> _Parts:
    rows = [
        [
            f"{one['low']:.1f} to {one['high']:.1f}",
            number(one["confidence"]),
            number(one["accuracy"]),
            f"{one['count']:,}",
        ]
        for one in own["bins"]
    ]
    brier = f", Brier score {own['brier']:.4f}" if "brier" in own else ""
    note = f"Expected calibration error {own['ece']:.4f}{brier}. Honest scores lie on the dashed line."
    table = Table(["score", "mean score", outcome, "count"], rows)
    return "Calibration", note, reliability(own, colour, outcome), table


def _deciles(rows: Sequence[Mapping[str, Any]], colour: str) -> _Parts:
    note = (
        "The examples in up to ten parts by their right value; the bars are the standard deviation of what was given."
    )
    cells = [
        [
            f"{row['low']:g} to {row['high']:g}",
            number(row["right"]),
            number(row["given"]),
            number(row["spread"]),
            str(row["count"]),
        ]
        for row in rows
    ]
    head = ["right values", "mean right", "mean given", "spread", "count"]
    return "Given against right", note, deciles(rows, colour), Table(head, cells)


def _residuals(own: Mapping[str, Any], errors: Mapping[str, float], colour: str) -> _Parts:
    note = (
        f"Mean absolute error {errors['mean_absolute']:.4f}, root mean squared {errors['root_mean_squared']:.4f}, "
        f"bias {errors['bias']:+.4f}."
    )
    edges = own["edges"]
    rows = [
        [f"{low:.2f} to {high:.2f}", f"{count:,}"]
        for low, high, count in zip(edges, edges[1:], own["counts"], strict=False)
    ]
    return "Errors", note, residuals(edges, own["counts"], colour), Table(["given minus right", "count"], rows)


def _ranks(diagnosis: Mapping[str, Any], colour: str) -> _Parts:
    ranks, none = diagnosis["ranks"], diagnosis["without_relevant"]
    note = "The place of the first relevant candidate."
    note += f" {none:,} queries have none." if none else ""
    names, counts = [one["rank"] for one in ranks], [one["count"] for one in ranks]
    rows = [[name, f"{count:,}"] for name, count in zip(names, counts, strict=True)]
    return (
        "First relevant place",
        note,
        columns(names, counts, ("place", "queries"), colour),
        Table(["place", "queries"], rows),
    )


def _lengths(rows: Sequence[Mapping[str, Any]], colour: str) -> _Parts:
    cells = [[one["words"], number(one["f1"]), number(one["exact_match"]), f"{one['count']:,}"] for one in rows]
    drawn = columns([one["words"] for one in rows], [one["f1"] for one in rows], ("words of the answer", "F1"), colour)
    note = "Mean F1 by the length of the right answer."
    return "By length of the answer", note, drawn, Table(["words", "F1", "exact match", "count"], cells)


def _per_label(rows: Sequence[Mapping[str, Any]]) -> _Parts:
    thresholds = ["threshold"] if "threshold" in rows[0] else []
    cells = [
        [
            row["label"],
            *(number(row[name]) for name in ("precision", "recall", "f1", *thresholds)),
            f"{row['support']:,}",
        ]
        for row in rows
    ]
    return "Label by label", "", None, Table(["label", "precision", "recall", "F1", *thresholds, "count"], cells)


def _matrix(confusion: Mapping[str, Any]) -> Matrix:
    rows = []
    for label, counts in zip(confusion["labels"], confusion["counts"], strict=True):
        total = sum(counts) or 1
        rows.append((label, [(count, count / total) for count in counts]))
    return Matrix(confusion["labels"], rows)
