"""Task section of a report: a task's metrics, learning curve and diagnosis, as charts and tables."""

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
    """A chart and its numbers as a table. Either may be missing."""

    title: str
    note: str
    chart: Chart | None
    table: Table | None


@dataclass(frozen=True, slots=True)
class Matrix:
    """A confusion matrix. `rows`: correct label, and for each predicted label the count and its share of the row."""

    labels: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[int, float]]]]


@dataclass(frozen=True, slots=True)
class TaskSection:
    """The content of a report about one task."""

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


def task_section(score: TaskScore, curve: Curve, run: RecordedRun) -> TaskSection:
    """The section of a task, from its score, curves and diagnosis."""
    task, diagnosis = score.task, run.diagnostics.get(score.task, {})
    baselines = run.baselines.get(task, {})
    others = {"trivial baseline": baselines} | {name: own[task] for name, own in run.references.items() if task in own}
    metrics = [
        [name, number(value), *(number(own.get(name)) for own in others.values())]
        for name, value in run.scores.get(task, {}).items()
    ]
    return TaskSection(
        task=task,
        kind=KIND_NAMES[score.kind],
        colour=COLOURS[score.kind],
        score=score,
        metrics=Table(["metric", "validation", *others], metrics),
        curve=_curve(curve) if curve.scores or curve.losses else None,
        exhibits=[_exhibit(task, *parts) for parts in _exhibits(diagnosis, run.calibration.get(task), score.kind)],
        matrix=_matrix(diagnosis["confusion"]) if "confusion" in diagnosis else None,
        mistakes=diagnosis.get("mistakes", ()),
        score_name="distance" if score.kind is Kind.REGRESSION else "score",
    )


def _curve(curve: Curve) -> Exhibit:
    rows = [[f"{at:,}", number(value)] for at, value in curve.scores]
    return Exhibit(
        "Learning curve",
        "",
        curve_chart(curve),
        Table(["examples", curve.metric], rows) if rows else None,
    )


def _exhibit(task: str, title: str, note: str, draw: Draw | None, table: Table | None) -> Exhibit:
    chart = render(f"{task}: {title.lower()}", note, _SIZE, draw, margins=_MARGINS) if draw else None
    return Exhibit(title, note, chart, table)


_Parts = tuple[str, str, Draw | None, Table | None]
"""Title, note, function that draws the chart, table."""


def _exhibits(diagnosis: Mapping[str, Any], effect: Mapping[str, Any] | None, kind: Kind) -> Iterator[_Parts]:
    """The exhibits for the keys that the diagnosis has. `effect`: that of calibration, if it was recorded."""
    colour = COLOURS[kind]
    if "calibration" in diagnosis:
        yield _calibration(diagnosis["calibration"], effect, colour, _OUTCOMES.get(kind, "share right"))
    if effect is not None and effect["class_bias"]:
        yield _class_bias(effect)
    if "coverage" in diagnosis:
        yield _coverage(diagnosis["coverage"])
    if "deciles" in diagnosis:
        yield _deciles(diagnosis["deciles"], colour)
        yield _residuals(diagnosis["residuals"], diagnosis["errors"], colour)
    if "ranks" in diagnosis:
        yield _ranks(diagnosis, colour)
    if "lengths" in diagnosis:
        yield _lengths(diagnosis["lengths"], colour)
    if diagnosis.get("confused"):
        pairs = diagnosis["confused"]
        rows = [[pair["right"], pair["given"], f"{pair['count']:,}", f"{pair['share']:.1%}"] for pair in pairs]
        headings = ["right", "given", "count", "share of the right label"]
        yield (
            "Confused most often",
            "Of many labels the pairs that are mixed up most.",
            None,
            Table(headings, rows, texts=2),
        )
    if diagnosis.get("per_label"):
        yield _per_label(diagnosis["per_label"])


def _class_bias(effect: Mapping[str, Any]) -> _Parts:
    note = (
        "Added to the logits after training, as that raises the main metric on training examples that no update has seen. "
        f"On validation: {effect['score_before']:.4f} without, {effect['score']:.4f} with it."
    )
    rows = [[label, number(value, "+.2f")] for label, value in effect["class_bias"].items()]
    return "Class bias", note, None, Table(["label", "added to its logit"], rows)


def _coverage(rows: Sequence[Mapping[str, Any]]) -> _Parts:
    note = "With such a `min_confidence`, less likely labels are answered as none of these."
    cells = [[f"{row['confidence']:.2f}", f"{row['coverage']:.1%}", number(row["accuracy"])] for row in rows]
    return "Coverage", note, None, Table(["confidence", "share of answers", "accuracy of those"], cells)


def _calibration(calibration: Mapping[str, Any], effect: Mapping[str, Any] | None, colour: str, outcome: str) -> _Parts:
    rows = [
        [
            f"{bucket['low']:.1f} to {bucket['high']:.1f}",
            number(bucket["confidence"]),
            number(bucket["accuracy"]),
            f"{bucket['count']:,}",
        ]
        for bucket in calibration["bins"]
    ]
    brier = f", Brier score {calibration['brier']:.4f}" if "brier" in calibration else ""
    changed = ""
    if effect is not None and effect["ece_before"] != effect["ece"]:
        changed = f" ({effect['ece_before']:.4f} before the temperature of {effect['temperature']:.2f})"
    note = f"Expected calibration error {calibration['ece']:.4f}{changed}{brier}. Honest scores lie on the dashed line."
    table = Table(["score", "mean score", outcome, "count"], rows)
    return "Calibration", note, reliability(calibration, colour, outcome), table


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
    headings = ["right values", "mean right", "mean given", "spread", "count"]
    return "Given against right", note, deciles(rows, colour), Table(headings, cells)


def _residuals(histogram: Mapping[str, Any], errors: Mapping[str, float], colour: str) -> _Parts:
    note = (
        f"Mean absolute error {errors['mean_absolute']:.4f}, root mean squared {errors['root_mean_squared']:.4f}, "
        f"bias {errors['bias']:+.4f}."
    )
    edges = histogram["edges"]
    rows = [
        [f"{low:.2f} to {high:.2f}", f"{count:,}"]
        for low, high, count in zip(edges, edges[1:], histogram["counts"], strict=False)
    ]
    return "Errors", note, residuals(edges, histogram["counts"], colour), Table(["given minus right", "count"], rows)


def _ranks(diagnosis: Mapping[str, Any], colour: str) -> _Parts:
    ranks, without_relevant = diagnosis["ranks"], diagnosis["without_relevant"]
    note = "The place of the first relevant candidate."
    note += f" {without_relevant:,} queries have none." if without_relevant else ""
    names, counts = [rank["rank"] for rank in ranks], [rank["count"] for rank in ranks]
    rows = [[name, f"{count:,}"] for name, count in zip(names, counts, strict=True)]
    return (
        "First relevant place",
        note,
        columns(names, counts, ("place", "queries"), colour),
        Table(["place", "queries"], rows),
    )


def _lengths(rows: Sequence[Mapping[str, Any]], colour: str) -> _Parts:
    cells = [[row["words"], number(row["f1"]), number(row["exact_match"]), f"{row['count']:,}"] for row in rows]
    draw = columns([row["words"] for row in rows], [row["f1"] for row in rows], ("words of the answer", "F1"), colour)
    note = "Mean F1 by the length of the right answer."
    return "By length of the answer", note, draw, Table(["words", "F1", "exact match", "count"], cells)


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
