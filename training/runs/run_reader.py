"""What a run left in its folder, read back: its history so far, and its results once it is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polytask.model.tasks import Kind
from polytask.training.runs.event_log import Event, read_history

HISTORY, RESULTS = "history.jsonl", "results.json"

Scores = dict[str, dict[str, float]]
"""Task to metric to value, the main metric first."""


class RunFolderError(Exception):
    """A folder that no report can be made of: says which file or line, and what to do."""


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run as it was written down, finished or not.

    `progress` and `evaluations` rise in `examples`: what a resumed run did again replaces what it did first.
    `rivals`: name to task to the value of the task's main metric. `diagnostics`: task to `diagnose(...)`.
    """

    start: Event = field(default_factory=dict)
    progress: Sequence[Event] = ()
    evaluations: Sequence[Event] = ()
    resumed: int = 0
    finish: Event | None = None
    scores: Scores = field(default_factory=dict)
    baselines: Scores = field(default_factory=dict)
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    diagnostics: Mapping[str, Event] = field(default_factory=dict)

    @property
    def kinds(self) -> dict[str, Kind]:
        """Every task of the run, those of a kind together, each kind's in the run's order."""
        kinds = {task["name"]: Kind(task["kind"]) for task in self.start.get("tasks", ())}
        return {task: kind for own in Kind for task, kind in kinds.items() if kind is own}

    @property
    def examples(self) -> int:
        """How many examples the run has drawn."""
        return int(max(event.get("examples", 0) for event in (*self.progress, *self.evaluations, self.finish or {})))

    @property
    def seconds(self) -> float:
        """How long it has trained."""
        last = self.finish or (self.progress[-1] if self.progress else {})
        return float(last.get("seconds", 0.0))


def read_run(folder: Path) -> RecordedRun:
    """Reads a run's folder. A last line that was cut short and results that are not there yet are no error.

    Raises RunFolderError if there is no history, or a line or file is not what a run writes.
    """
    if not (folder / HISTORY).is_file():
        raise RunFolderError(f"{folder}: no {HISTORY} in it; give the folder of a run, finished or not")
    events = _read_events(folder / HISTORY)
    progress, evaluations = list[Event](), list[Event]()
    for event in events:
        series = {"progress": progress, "evaluation": evaluations}.get(event["event"])
        if event["event"] == "resume" and "examples" in event:
            _cut(progress, event["examples"] + 1)
            _cut(evaluations, event["examples"] + 1)
        elif series is not None:
            _cut(series, event["examples"])
            series.append(event)
    # The values of the last start hold; a run that was resumed may have written a second one.
    named = {event["event"]: event for event in events}
    results = _read_results(folder / RESULTS)
    last = evaluations[-1]["scores"] if evaluations else {}
    return RecordedRun(
        start=named.get("start", {}),
        progress=progress,
        evaluations=evaluations,
        resumed=sum(event["event"] == "resume" for event in events),
        finish=named.get("finish"),
        scores=results.get("scores") or last,
        baselines=results.get("baselines") or {},
        references=results.get("rivals") or {},
        diagnostics=results.get("diagnostics") or {},
    )


def merge(progress: Sequence[Event], most: int) -> list[Event]:
    """The same progress in at most `most` intervals: examples added up, losses weighted by them."""
    step = max(1, -(-len(progress) // most))
    return [_merged(progress[first : first + step]) for first in range(0, len(progress), step)]


def _merged(events: Sequence[Event]) -> Event:
    tasks = {}
    for name in dict.fromkeys(name for event in events for name in event["tasks"]):
        own = [event["tasks"][name] for event in events if name in event["tasks"]]
        loss = _weighted([(one["loss"], one["examples"]) for one in own])
        tasks[name] = {"examples": sum(one["examples"] for one in own), "loss": loss}
    weights = [sum(one["examples"] for one in event["tasks"].values()) for event in events]
    loss = _weighted([(event["loss"], weight) for event, weight in zip(events, weights, strict=True)])
    return {**events[-1], "tasks": tasks, "loss": loss}


def _weighted(values: Sequence[tuple[float | None, int]]) -> float | None:
    known = [(value, weight) for value, weight in values if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None


def _cut(series: list[Event], examples: int) -> None:
    """Removes the events at or after `examples`: the run has gone back before them."""
    while series and series[-1]["examples"] >= examples:
        series.pop()


def _read_events(path: Path) -> list[Event]:
    try:
        events = read_history(path)
    except ValueError as error:
        raise RunFolderError(f"{path}: a line of it is not JSON ({error}); remove the line") from error
    for number, event in enumerate(events, start=1):
        if not isinstance(event, dict) or "event" not in event:
            raise RunFolderError(f"{path}:{number}: is no event of a run; remove the line")
    return events


def _read_results(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RunFolderError(f"{path}: is not JSON ({error}); remove it, the history is enough for a report") from error
    if not isinstance(results, dict):
        raise RunFolderError(f"{path}: is not the results of a run; remove it, the history is enough for a report")
    return results
