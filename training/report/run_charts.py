"""Run charts: scores beside baselines and references, task shares, and learning curves of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from polytask.model.tasks import Kind
from polytask.training.report.charts import (
    COLOURS,
    INK,
    MUTED,
    PAPER,
    Chart,
    Draw,
    fit_names,
    limit_ticks,
    render,
    short_count,
)
from polytask.training.report.tables import INTERVALS, Curve, TaskScore, mean_curve, number
from polytask.training.runs.run_reader import RecordedRun, merge

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("D", "o", "^", "s", "v", "P")
_SHADES = (0.92, 0.6, 0.76)  # opacities of a kind's colour, for its tasks in turn
_SMALL = (360, 210)


def scores_chart(scores: Sequence[TaskScore], width: int) -> Chart:
    """A bar for each task from the top, with its trivial baseline as a line and its references as markers."""
    words = "; ".join(f"{s.task} {number(s.value)} against {number(s.baseline)}" for s in scores)
    room, names = fit_names([score.task for score in scores], width * 2 // 5)
    key = 20 * (1 + (len(_reference_markers(scores)) + 1) // 4)
    return render(
        "Scores of all tasks",
        f"Main metric against trivial baseline. {words}",
        (width, 32 + key + 22 * len(scores)),
        lambda figure: _draw_bars(figure.subplots(), scores, names),
        margins=(key + 4, 42, 22, room),
    )


def _reference_markers(scores: Sequence[TaskScore]) -> dict[str, str]:
    """The marker of each reference."""
    names = dict.fromkeys(name for score in scores for name in score.references)
    return {name: _MARKERS[index % len(_MARKERS)] for index, name in enumerate(names)}


def _draw_bars(axes: Axes, scores: Sequence[TaskScore], names: Sequence[str]) -> None:
    marks = _reference_markers(scores)
    for row, score in enumerate(scores):
        axes.barh(row, score.value or 0.0, height=0.64, color=COLOURS[score.kind], alpha=0.85)
        if score.baseline is not None:
            axes.vlines(score.baseline, row - 0.42, row + 0.42, colors=INK, linewidth=1.8, zorder=3)
        for name, value in score.references.items():
            axes.plot(value, row, marks[name], color=PAPER, mec=INK, markersize=6, mew=1.1, zorder=4)
        axes.annotate(
            "-" if score.value is None else f"{score.value:.3f}",
            (1, row),
            (6, 0),
            ("axes fraction", "data"),
            "offset points",
            va="center",
        )
    axes.plot([], [], "|", color=INK, markersize=10, mew=1.8, label="trivial baseline")
    for name, mark in marks.items():
        axes.plot([], [], mark, color=PAPER, mec=INK, markersize=6, label=name)
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=4,
        frameon=False,
        fontsize=10,
        handletextpad=0.1,
        columnspacing=1.0,
        borderaxespad=0.1,
    )
    axes.set_yticks(range(len(scores)), names, color=INK)
    axes.grid(visible=False, axis="y")
    axes.spines["bottom"].set_visible(False)
    values = [v for s in scores for v in (s.value, s.baseline, *s.references.values()) if v is not None]
    axes.set_xlim(min(0.0, *values, 0.0), max(1.0, *values, 1.0))
    axes.set_ylim(len(scores) - 0.4, -0.6)
    limit_ticks(axes, x=5)


def share_chart(run: RecordedRun, width: int) -> Chart:
    """The tasks' shares of the examples in each interval, stacked, with names at the right edge."""
    # From the bottom up, so that the first task is on top as in the tables.
    tasks = list(reversed(run.kinds))
    progress = merge(run.progress, INTERVALS if len(tasks) <= 12 else INTERVALS // 3)
    parts: dict[str, list[float]] = {task: [] for task in tasks}
    for event in progress:
        counts = {task: event["tasks"].get(task, {}).get("examples", 0) for task in tasks}
        for task, count in counts.items():
            parts[task].append(count / (sum(counts.values()) or 1))
    room, names = fit_names(tasks, width // 3)
    return render(
        "Share of each task over time",
        "Each task's share of the examples drawn, over the run. The table beside it has the totals.",
        (width, max(300, 50 + 14 * len(tasks))),
        lambda figure: _draw_shares(
            figure.subplots(), [event["examples"] for event in progress], parts, run.kinds, names
        ),
        margins=(8, room, 38, 44),
    )


def _draw_shares(
    axes: Axes,
    examples: Sequence[int],
    parts: Mapping[str, Sequence[float]],
    kinds: Mapping[str, Kind],
    names: Sequence[str],
) -> None:
    xs = [0, *examples]  # intervals end at these numbers of examples
    bottom = [0.0] * len(xs)
    middles, shades = list[float](), dict[Kind, int]()
    for task, values in parts.items():
        top = [below + value for below, value in zip(bottom, [values[0], *values], strict=True)]
        shade = shades[kinds[task]] = shades.get(kinds[task], -1) + 1
        colour = COLOURS[kinds[task]]
        axes.fill_between(xs, bottom, top, color=colour, alpha=_SHADES[shade % len(_SHADES)], linewidth=0)
        axes.plot(xs, top, color=PAPER, linewidth=0.7)
        middles.append((bottom[-1] + top[-1]) / 2)
        bottom = top
    axes.set_ylim(0, 1)
    axes.grid(visible=False)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _over_examples(axes, [(xs[-1], 0.0)])
    axes.set_xlim(0, xs[-1])
    for height, name in zip(_spread_out(middles, 1 / (len(parts) + 1)), names, strict=True):
        axes.annotate(name, (1, height), (6, 0), "axes fraction", "offset points", va="center", fontsize=10)


def _spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """The ascending heights, moved so that neighbours are `gap` apart and all stay within 0 to 1."""
    moved = list(heights)
    for index in range(1, len(moved)):
        moved[index] = max(moved[index], moved[index - 1] + gap)
    limit = 1.0 - gap / 2
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - gap
    return moved


def overall_charts(run: RecordedRun, curves: Sequence[Curve]) -> list[Chart]:
    """Charts of the run's loss, mean metric and learning rate, if it has them."""
    progress = merge(run.progress, INTERVALS)
    losses = [(event["examples"], event["loss"]) for event in progress if event["loss"] is not None]
    rates = [(event["examples"], event["learning_rate"]) for event in progress]
    mean, ink = mean_curve(curves), COLOURS[Kind.CLASSIFICATION]

    def draw_rates(figure: Figure) -> None:
        axes = figure.subplots()
        draw_losses(axes, rates, ink, "learning rate", smooth=False)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1e}".replace("e-0", "e-") if value else "0")

    drawn = []
    if losses:
        words = f"Mean training loss, from {number(losses[0][1])} to {number(losses[-1][1])}."
        draw: Draw = lambda figure: draw_losses(figure.subplots(), losses, ink, "mean training loss")  # noqa: E731
        drawn.append(render("Loss of all tasks", words, _SMALL, draw))
    if mean.scores:
        words = f"Mean of the main metrics of all tasks, in the end {number(mean.scores[-1][1])}."
        drawn.append(render("Mean metric", words, _SMALL, lambda figure: draw_scores(figure.subplots(), mean)))
    if rates:
        words = f"Learning rate, at most {max(rate for _, rate in rates):.2e}."
        drawn.append(render("Learning rate", words, _SMALL, draw_rates, margins=(22, 12, 38, 54)))
    return drawn


def curve_chart(curve: Curve) -> Chart:
    """One task's metric over the number of examples, and its training loss below."""

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, height_ratios=(3, 2), sharex=True, gridspec_kw={"hspace": 0.24})
        draw_scores(upper, curve)
        draw_losses(lower, curve.losses, COLOURS[curve.kind], "training loss")
        upper.set_xlabel("")
        upper.set_xlim(0, 1.03 * max((at for at, _ in (*curve.scores, *curve.losses)), default=1))

    last = (
        f"{curve.metric} {number(curve.scores[-1][1])} on {curve.measured_on} at the last evaluation"
        if curve.scores
        else "Not evaluated yet"
    )
    words = f"{last}; the dashed line is the trivial baseline, {number(curve.baseline)}."
    return render(f"{curve.task}: learning curve", words, (360, 300), draw)


def draw_scores(axes: Axes, curve: Curve) -> None:
    """Draws one task's metric at each evaluation, with the last value as text and the trivial baseline dashed."""
    axes.set_title(f"{curve.metric} on {curve.measured_on}")
    if curve.baseline is not None:
        axes.axhline(curve.baseline, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    if curve.scores:
        xs, ys = zip(*curve.scores, strict=True)
        axes.plot(xs, ys, color=COLOURS[curve.kind], marker="o", markersize=2.8)
        axes.annotate(f"{ys[-1]:.3f}", (xs[-1], ys[-1]), (0, 5), textcoords="offset points", ha="right", va="bottom")
    else:
        axes.text(0.5, 0.7, "not evaluated yet", transform=axes.transAxes, ha="center", color=MUTED)
    axes.margins(y=0.22)
    limit_ticks(axes, y=4)
    _over_examples(axes, curve.scores)


def draw_losses(
    axes: Axes, points: Sequence[tuple[int, float]], colour: str, title: str, *, smooth: bool = True
) -> None:
    """Draws a loss over the number of examples. `smooth`: with a moving mean over the intervals."""
    axes.set_title(title)
    if points:
        xs, ys = zip(*points, strict=True)
        if smooth:
            axes.plot(xs, ys, color=colour, linewidth=0.9, alpha=0.45)
        axes.plot(xs, _smooth(ys) if smooth else ys, color=colour)
        axes.set_ylim(0, max(*ys, 1e-9) * 1.08)
    else:
        axes.text(0.5, 0.5, "no loss yet", transform=axes.transAxes, ha="center", color=MUTED)
    limit_ticks(axes, y=4)
    _over_examples(axes, points)


def _smooth(values: Sequence[float], keep: float = 0.8) -> list[float]:
    """The exponential moving mean, with bias correction at the start."""
    total, weight, means = 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return means


def _over_examples(axes: Axes, points: Sequence[tuple[int, float]]) -> None:
    axes.set_xlim(0, 1.03 * max((at for at, _ in points), default=1))
    limit_ticks(axes, x=4)
    axes.xaxis.set_major_formatter(short_count)
    axes.set_xlabel("examples")
