"""Task charts: calibration, deciles, residuals and histograms from a task's diagnosis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from polytask.training.report.charts import INK, MUTED, Draw, limit_ticks, short_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def reliability(calibration: Mapping[str, Any], colour: str, outcome: str) -> Draw:
    """The mean outcome over the mean score of each bin, and below it the number of answers in each bin."""

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True, gridspec_kw={"hspace": 0.14})
        draw_reliability(upper, calibration, colour)
        upper.set_ylabel(outcome)
        buckets = calibration["bins"]
        lower.bar(
            [_middle(bucket) for bucket in buckets],
            [bucket["count"] for bucket in buckets],
            width=0.09,
            color=colour,
            alpha=0.55,
        )
        lower.set_xlabel("score")
        lower.set_ylabel("count")
        limit_ticks(lower, y=2, whole=True)
        lower.yaxis.set_major_formatter(short_count)
        figure.align_ylabels([upper, lower])

    return draw


def draw_reliability(axes: Axes, calibration: Mapping[str, Any], colour: str) -> None:
    """Draws a point for each bin with answers. Its area grows with their number."""
    buckets = [bucket for bucket in calibration["bins"] if bucket["count"]]
    total = sum(bucket["count"] for bucket in buckets)
    xs, ys = [bucket["confidence"] for bucket in buckets], [bucket["accuracy"] for bucket in buckets]
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.vlines(xs, xs, ys, colors=colour, linewidth=1, alpha=0.5)
    axes.plot(xs, ys, color=colour, linewidth=1.2)
    axes.scatter(xs, ys, [14 + 110 * bucket["count"] / total for bucket in buckets], color=colour, zorder=3)
    axes.annotate(
        f"ECE {calibration['ece']:.3f}",
        (0, 1),
        (7, -5),
        "axes fraction",
        "offset points",
        va="top",
        color=INK,
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])


def _middle(bucket: Mapping[str, Any]) -> float:
    return float(bucket["low"] + bucket["high"]) / 2


def deciles(rows: Sequence[Mapping[str, Any]], colour: str) -> Draw:
    """The mean predicted value of each decile, with its spread, over the mean correct value."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        xs, ys = [row["right"] for row in rows], [row["given"] for row in rows]
        ends = [min(xs + ys), max(xs + ys)]
        axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.errorbar(
            xs, ys, yerr=[row["spread"] for row in rows], color=colour, marker="o", markersize=4, elinewidth=1
        )
        limit_ticks(axes, x=5, y=5)
        axes.set_xlabel("right value (mean of each tenth)")
        axes.set_ylabel("given value")

    return draw


def residuals(edges: Sequence[float], counts: Sequence[int], colour: str) -> Draw:
    """A histogram of predicted minus correct values."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.75)
        axes.axvline(0, color=INK, linewidth=1)
        limit_ticks(axes, x=5)
        axes.set_xlabel("given minus right")
        _counts(axes)

    return draw


def columns(names: Sequence[str], values: Sequence[float], labels: tuple[str, str], colour: str) -> Draw:
    """A vertical bar for each name. `labels`: of the axis of names and of the axis of values."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.bar(names, values, color=colour, alpha=0.85)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel(labels[0])
        _counts(axes)
        axes.set_ylabel(labels[1])

    return draw


def _counts(axes: Axes) -> None:
    axes.set_ylabel("count")
    limit_ticks(axes, y=4)
    axes.yaxis.set_major_formatter(short_count)
