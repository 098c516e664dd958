"""Run reader: a run's history and results, read from its folder, finished or not."""

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
    """A folder from which no report can be made; the message names the file or line and the remedy."""


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run as recorded in its folder, finished or not.

    `progress`, `evaluations` (on validation) and `selections` (on selection) are ascending in `examples`: events that a resumed run repeated replace the first ones.
    `references`: simple models by name, each with its scores of the tasks that it can answer. `calibration`:
    `CalibrationEffect` by task. `diagnostics`: `diagnose(...)` by task. `warnings`: what is wrong with a task, by task.
    """

    start: Event = field(default_factory=dict)
    progress: Sequence[Event] = ()
    evaluations: Sequence[Event] = ()
    selections: Sequence[Event] = ()
    resumed: int = 0
    finish: Event | None = None
    scores: Scores = field(default_factory=dict)
    baselines: Scores = field(default_factory=dict)
    references: Mapping[str, Scores] = field(default_factory=dict)
    calibration: Mapping[str, Event] = field(default_factory=dict)
    diagnostics: Mapping[str, Event] = field(default_factory=dict)
    warnings: Mapping[str, str] = field(default_factory=dict)

    @property
    def kinds(self) -> dict[str, Kind]:
        """Every task with its kind, grouped by kind; within a kind in the run's order."""
        kinds = {task["name"]: Kind(task["kind"]) for task in self.start.get("tasks", ())}
        return {task: kind for wanted in Kind for task, kind in kinds.items() if kind is wanted}

    @property
    def examples(self) -> int:
        """Number of examples that the run has drawn."""
        return int(max(event.get("examples", 0) for event in (*self.progress, *self.evaluations, self.finish or {})))

    @property
    def seconds(self) -> float:
        """Training time in seconds."""
        last_event = self.finish or (self.progress[-1] if self.progress else {})
        return float(last_event.get("seconds", 0.0))


def read_run(folder: Path) -> RecordedRun:
    """Reads a run's folder. An incomplete last line and missing results are no error.

    Raises RunFolderError if there is no history, or if a line or file is not one that a run writes.
    """
    if not (folder / HISTORY).is_file():
        raise RunFolderError(f"{folder}: no {HISTORY} in it; give the folder of a run, finished or not")
    events = _read_events(folder / HISTORY)
    progress, evaluations, selections = list[Event](), list[Event](), list[Event]()
    for event in events:
        series_of = {"progress": progress, "evaluation": evaluations, "selection": selections}
        series = series_of.get(event["event"])
        if event["event"] == "resume" and "examples" in event:
            _drop_from(progress, event["examples"] + 1)
            _drop_from(evaluations, event["examples"] + 1)
            _drop_from(selections, event["examples"] + 1)
        elif series is not None:
            _drop_from(series, event["examples"])
            series.append(event)
    # The last start counts: a run that was resumed may have written a second one.
    last_events = {event["event"]: event for event in events}
    results = _read_results(folder / RESULTS)
    last_selection = selections[-1] if selections else {}
    last_scores = evaluations[-1]["scores"] if evaluations else {}
    return RecordedRun(
        start=last_events.get("start", {}),
        progress=progress,
        evaluations=evaluations,
        selections=selections,
        resumed=sum(event["event"] == "resume" for event in events),
        finish=last_events.get("finish"),
        scores=results.get("scores") or last_scores,
        baselines=results.get("baselines") or {},
        references=results.get("references") or {},
        calibration=results.get("calibration") or {},
        diagnostics=results.get("diagnostics") or {},
        warnings=results.get("warnings") or last_selection.get("warnings") or {},
    )


def merge(progress: Sequence[Event], max_intervals: int) -> list[Event]:
    """The progress in at most `max_intervals` intervals: examples are summed, losses are means weighted by them."""
    step = max(1, -(-len(progress) // max_intervals))
    return [_merge_events(progress[first : first + step]) for first in range(0, len(progress), step)]


def _merge_events(events: Sequence[Event]) -> Event:
    tasks = {}
    for name in dict.fromkeys(name for event in events for name in event["tasks"]):
        intervals = [event["tasks"][name] for event in events if name in event["tasks"]]
        loss = _weighted_mean([(interval["loss"], interval["examples"]) for interval in intervals])
        tasks[name] = {"examples": sum(interval["examples"] for interval in intervals), "loss": loss}
    weights = [sum(interval["examples"] for interval in event["tasks"].values()) for event in events]
    loss = _weighted_mean([(event["loss"], weight) for event, weight in zip(events, weights, strict=True)])
    return {**events[-1], "tasks": tasks, "loss": loss}


def _weighted_mean(values: Sequence[tuple[float | None, int]]) -> float | None:
    present = [(value, weight) for value, weight in values if value is not None]
    total = sum(weight for _, weight in present)
    return sum(value * weight for value, weight in present) / total if total else None


def _drop_from(series: list[Event], examples: int) -> None:
    """Removes the events at or after `examples`, which the resumed run repeats."""
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
