"""What is drawn of a task's diagnosis: how far its scores can be trusted, and where its answers lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from polytask.training.report.charts import INK, MUTED, Draw, few_ticks, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def reliability(calibration: Mapping[str, Any], colour: str, outcome: str) -> Draw:
    """What came true over what was promised, on the diagonal if honest; under it how many answers each bin has."""

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True, gridspec_kw={"hspace": 0.14})
        draw_reliability(upper, calibration, colour)
        upper.set_ylabel(outcome)
        bins = calibration["bins"]
        lower.bar([_middle(one) for one in bins], [one["count"] for one in bins], width=0.09, color=colour, alpha=0.55)
        lower.set_xlabel("score")
        lower.set_ylabel("count")
        few_ticks(lower, y=2, whole=True)
        lower.yaxis.set_major_formatter(short)
        figure.align_ylabels([upper, lower])

    return draw


def draw_reliability(axes: Axes, calibration: Mapping[str, Any], colour: str) -> None:
    """A point for each bin that has answers, the larger the more it has."""
    bins = [one for one in calibration["bins"] if one["count"]]
    total = sum(one["count"] for one in bins)
    xs, ys = [one["confidence"] for one in bins], [one["accuracy"] for one in bins]
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.vlines(xs, xs, ys, colors=colour, linewidth=1, alpha=0.5)
    axes.plot(xs, ys, color=colour, linewidth=1.2)
    axes.scatter(xs, ys, [14 + 110 * one["count"] / total for one in bins], color=colour, zorder=3)
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


def _middle(one: Mapping[str, Any]) -> float:
    return float(one["low"] + one["high"]) / 2


def deciles(rows: Sequence[Mapping[str, Any]], colour: str) -> Draw:
    """The mean of the values given, with their spread, over the mean of the right ones."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        xs, ys = [row["right"] for row in rows], [row["given"] for row in rows]
        ends = [min(xs + ys), max(xs + ys)]
        axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.errorbar(
            xs, ys, yerr=[row["spread"] for row in rows], color=colour, marker="o", markersize=4, elinewidth=1
        )
        few_ticks(axes, x=5, y=5)
        axes.set_xlabel("right value (mean of each tenth)")
        axes.set_ylabel("given value")

    return draw


def residuals(edges: Sequence[float], counts: Sequence[int], colour: str) -> Draw:
    """How often the values given were off by how much."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.75)
        axes.axvline(0, color=INK, linewidth=1)
        few_ticks(axes, x=5)
        axes.set_xlabel("given minus right")
        _counts(axes)

    return draw


def columns(names: Sequence[str], values: Sequence[float], labels: tuple[str, str], colour: str) -> Draw:
    """An upright bar for each name. `labels`: of what the names are, and of what the values are."""

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
    few_ticks(axes, y=4)
    axes.yaxis.set_major_formatter(short)
