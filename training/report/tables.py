"""The numbers of a report: what its tables and tiles say, as text, the same for HTML and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from polytask.model.tasks import Kind
from polytask.training.report.charts import short
from polytask.training.runs.run_reader import RecordedRun, merge

INTERVALS = 120  # more than that no chart can show
KIND_NAMES = {kind: str(kind).replace("_", " ") for kind in Kind}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under headings. The first `texts` columns are words, the others numbers."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the head of a report."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class TaskScore:
    """A task's main metric beside that of others; None where it was not measured."""

    task: str
    kind: Kind
    metric: str
    value: float | None
    baseline: float | None
    references: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Curve:
    """What is known of a task over the examples drawn. `scores`, `losses`: (examples, value) in order."""

    task: str
    kind: Kind
    metric: str
    scores: Sequence[tuple[int, float]]
    losses: Sequence[tuple[int, float]]
    baseline: float | None = None


def number(value: float | None, form: str = ".4f") -> str:
    """A value as tables show it; a dash where there is none."""
    return "-" if value is None else format(value, form)


def task_scores(run: RecordedRun) -> list[TaskScore]:
    """Every task's main metric beside its rivals."""
    found = []
    for task, kind in run.kinds.items():
        own, baseline = run.scores.get(task, {}), run.baselines.get(task, {})
        metric = next(iter(own), next(iter(baseline), ""))
        references = {name: values[task] for name, values in run.references.items() if values.get(task) is not None}
        found.append(TaskScore(task, kind, metric, own.get(metric), baseline.get(metric), references))
    return found


def task_curves(run: RecordedRun) -> dict[str, Curve]:
    """Every task over the examples drawn, by name; a finished run ends with what it has published."""
    progress = merge(run.progress, INTERVALS)
    curves = {}
    for score in task_scores(run):
        task, metric = score.task, score.metric
        losses = [(event["examples"], event["tasks"].get(task, {}).get("loss")) for event in progress]
        points = [(event["examples"], event["scores"].get(task, {}).get(metric)) for event in run.evaluations]
        if run.finish is not None and score.value is not None:  # what was published, and so the last word
            points = [point for point in points if point[0] < run.examples] + [(run.examples, score.value)]
        known, lost = ([(at, value) for at, value in series if value is not None] for series in (points, losses))
        curves[task] = Curve(task, score.kind, metric, known, lost, score.baseline)
    return curves


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of the main metrics at each evaluation that measured all tasks."""
    values: dict[int, list[float]] = {}
    for own in curves:
        for at, value in own.scores:
            values.setdefault(at, []).append(value)
    scores = [(at, fmean(own)) for at, own in sorted(values.items()) if len(own) == len(curves)]
    baselines = [own.baseline for own in curves if own.baseline is not None]
    baseline = fmean(baselines) if curves and len(baselines) == len(curves) else None
    return Curve("all", Kind.CLASSIFICATION, "mean of the main metrics", scores, (), baseline)


def scores_table(scores: Sequence[TaskScore]) -> Table:
    """Every task's main metric, its trivial baseline, its rivals, and what it is ahead of the better rival by."""
    references = list(dict.fromkeys(name for score in scores for name in score.references))
    rows = []
    for score in scores:
        gain = None if score.value is None or score.baseline is None else score.value - score.baseline
        ahead = (
            [score.value - max(score.references.values())] if score.references and score.value is not None else [None]
        )
        own = [score.task, score.metric, number(score.value), number(score.baseline)]
        own += [number(score.references.get(name)) for name in references]
        rows.append([*own, number(gain, "+.4f"), *(number(value, "+.4f") for value in ahead if references)])
    last = ["over the best rival"] if references else []
    head = ["task", "metric", "validation", "trivial baseline", *references, "over the baseline", *last]
    return Table(head, rows, texts=2)


def use_table(run: RecordedRun) -> Table:
    """How many examples of each task the run has drawn, and the task's last loss."""
    drawn = {task: sum(event["tasks"].get(task, {}).get("examples", 0) for event in run.progress) for task in run.kinds}
    total = sum(drawn.values())
    rows = []
    for task, count in drawn.items():
        losses = [event["tasks"].get(task, {}).get("loss") for event in run.progress]
        known = [loss for loss in losses if loss is not None]
        part = f"{count / total:.1%}" if total else number(None)
        rows.append(
            [task, f"{count:,}", part, number(known[0] if known else None), number(known[-1] if known else None)]
        )
    return Table(["task", "examples", "share", "first loss", "last loss"], rows)


def tiles(run: RecordedRun, scores: Sequence[TaskScore]) -> Iterator[Tile]:
    """The run at a glance."""
    known = [score for score in scores if score.value is not None]
    if known:
        pairs = [(s.value or 0.0, s.baseline) for s in known if s.baseline is not None]
        note = f"trivial baseline {fmean(b for _, b in pairs):.4f}" if len(pairs) == len(known) else ""
        yield Tile("mean of the main metrics", number(fmean(s.value or 0.0 for s in known)), note)
    for name in run.references:
        both = [(score.value or 0.0, score.references[name]) for score in known if name in score.references]
        if both:
            ahead = fmean(own - other for own, other in both)
            yield Tile(f"over {name}", number(ahead, "+.4f"), f"mean of {len(both)} tasks")
    total = run.start.get("total_examples") or 0
    yield Tile("tasks", str(len(run.kinds)), f"{len(set(run.kinds.values()))} kinds")
    yield Tile("examples", f"{run.examples:,}", f"of {total:,} ({run.examples / total:.0%})" if total else "")
    if run.seconds:
        yield Tile("time", _duration(run.seconds), f"{run.examples / run.seconds:,.1f} examples a second")
    if run.progress:
        yield Tile("updates", f"{run.progress[-1]['updates']:,}")


def parameters_line(run: RecordedRun) -> str:
    """How many parameters there are, of what."""
    counts = run.start.get("parameters", {}).items()
    return ", ".join(f"{name.replace('_', ' ')} {short(count)}" for name, count in counts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
