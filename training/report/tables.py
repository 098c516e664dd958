"""Report tables: the numbers in a report's tables and tiles, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from polytask.model.tasks import Kind
from polytask.training.report.charts import short_count
from polytask.training.runs.run_reader import RecordedRun, merge

INTERVALS = 120  # charts cannot show more
KIND_NAMES = {kind: str(kind).replace("_", " ") for kind in Kind}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under headings. The first `texts` columns are words, the others numbers."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


@dataclass(frozen=True, slots=True)
class Tile:
    """One number at the top of a report."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class TaskScore:
    """A task's main metric beside its trivial baseline and references; None if it was not measured."""

    task: str
    kind: Kind
    metric: str
    value: float | None
    baseline: float | None
    references: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Curve:
    """The curves of a task over the number of examples. `scores`, `losses`: (examples, value) in order.

    `measured_on`: the examples of which the scores are.
    """

    task: str
    kind: Kind
    metric: str
    scores: Sequence[tuple[int, float]]
    losses: Sequence[tuple[int, float]]
    baseline: float | None = None
    measured_on: str = "validation"


def number(value: float | None, form: str = ".4f") -> str:
    """A value as in tables; a dash for None."""
    return "-" if value is None else format(value, form)


def task_scores(run: RecordedRun) -> list[TaskScore]:
    """Every task's main metric beside its references."""
    result = []
    for task, kind in run.kinds.items():
        metrics, baseline = run.scores.get(task, {}), run.baselines.get(task, {})
        metric = next(iter(metrics), next(iter(baseline), ""))
        rivals = {name: scores.get(task, {}).get(metric) for name, scores in run.references.items()}
        references = {name: value for name, value in rivals.items() if value is not None}
        result.append(TaskScore(task, kind, metric, metrics.get(metric), baseline.get(metric), references))
    return result


def task_curves(run: RecordedRun) -> dict[str, Curve]:
    """Every task's curves by name: on validation if the run measured it on the way, else on selection.

    Those on validation of a finished run end with the published score.
    """
    on_selection = bool(run.selections) and not run.evaluations
    measured_on = "selection" if on_selection else "validation"
    progress = merge(run.progress, INTERVALS)
    curves = {}
    for score in task_scores(run):
        task, metric = score.task, score.metric
        all_losses = [(event["examples"], event["tasks"].get(task, {}).get("loss")) for event in progress]
        points = [
            (event["examples"], event["scores"].get(task, {}).get(metric))
            for event in (run.selections if on_selection else run.evaluations)
        ]
        if (
            run.finish is not None and score.value is not None and not on_selection
        ):  # the published score replaces the last evaluation
            points = [point for point in points if point[0] < run.examples] + [(run.examples, score.value)]
        present, losses = (
            [(at, value) for at, value in series if value is not None] for series in (points, all_losses)
        )
        curves[task] = Curve(task, score.kind, metric, present, losses, score.baseline, measured_on)
    return curves


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of the main metrics at each evaluation of all tasks."""
    values: dict[int, list[float]] = {}
    for curve in curves:
        for at, value in curve.scores:
            values.setdefault(at, []).append(value)
    scores = [(at, fmean(measured)) for at, measured in sorted(values.items()) if len(measured) == len(curves)]
    baselines = [curve.baseline for curve in curves if curve.baseline is not None]
    baseline = fmean(baselines) if curves and len(baselines) == len(curves) else None
    measured_on = curves[0].measured_on if curves else "validation"
    return Curve("all", Kind.CLASSIFICATION, "mean of the main metrics", scores, (), baseline, measured_on)


def scores_table(scores: Sequence[TaskScore]) -> Table:
    """Every task's main metric, trivial baseline and references, and its lead over the baseline and the best reference."""
    references = list(dict.fromkeys(name for score in scores for name in score.references))
    rows = []
    for score in scores:
        gain = None if score.value is None or score.baseline is None else score.value - score.baseline
        lead = (
            [score.value - max(score.references.values())] if score.references and score.value is not None else [None]
        )
        cells = [score.task, score.metric, number(score.value), number(score.baseline)]
        cells += [number(score.references.get(name)) for name in references]
        rows.append([*cells, number(gain, "+.4f"), *(number(value, "+.4f") for value in lead if references)])
    lead_heading = ["over the best of these"] if references else []
    headings = ["task", "metric", "validation", "trivial baseline", *references, "over the baseline", *lead_heading]
    return Table(headings, rows, texts=2)


def use_table(run: RecordedRun) -> Table:
    """The number of examples that the run has drawn of each task, with the task's first and last loss."""
    drawn = {task: sum(event["tasks"].get(task, {}).get("examples", 0) for event in run.progress) for task in run.kinds}
    total = sum(drawn.values())
    rows = []
    for task, count in drawn.items():
        losses = [event["tasks"].get(task, {}).get("loss") for event in run.progress]
        measured = [loss for loss in losses if loss is not None]
        share = f"{count / total:.1%}" if total else number(None)
        rows.append(
            [
                task,
                f"{count:,}",
                share,
                number(measured[0] if measured else None),
                number(measured[-1] if measured else None),
            ]
        )
    return Table(["task", "examples", "share", "first loss", "last loss"], rows)


def tiles(run: RecordedRun, scores: Sequence[TaskScore]) -> Iterator[Tile]:
    """The main numbers of the run."""
    measured = [score for score in scores if score.value is not None]
    if measured:
        pairs = [(s.value or 0.0, s.baseline) for s in measured if s.baseline is not None]
        note = f"trivial baseline {fmean(b for _, b in pairs):.4f}" if len(pairs) == len(measured) else ""
        yield Tile("mean of the main metrics", number(fmean(s.value or 0.0 for s in measured)), note)
    for name in run.references:
        both = [(score.value or 0.0, score.references[name]) for score in measured if name in score.references]
        if both:
            lead = fmean(value - other for value, other in both)
            yield Tile(f"over {name}", number(lead, "+.4f"), f"mean of {len(both)} tasks")
    total = run.start.get("total_examples") or 0
    yield Tile("tasks", str(len(run.kinds)), f"{len(set(run.kinds.values()))} kinds")
    yield Tile("examples", f"{run.examples:,}", f"of {total:,} ({run.examples / total:.0%})" if total else "")
    if run.seconds:
        yield Tile("time", _duration(run.seconds), f"{run.examples / run.seconds:,.1f} examples a second")
    if run.progress:
        yield Tile("updates", f"{run.progress[-1]['updates']:,}")


def parameters_line(run: RecordedRun) -> str:
    """The numbers of parameters by part of the network."""
    counts = run.start.get("parameters", {}).items()
    return ", ".join(f"{name.replace('_', ' ')} {short_count(count)}" for name, count in counts)


def _duration(seconds: float) -> str:
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole_seconds:02} h" if hours else f"{minutes}:{whole_seconds:02} min"
