"""Run logger: events of a running training for its event log, TensorBoard and the console display."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from polytask.model.tasks import Task
from polytask.training.evaluation.metrics import Scores
from polytask.training.evaluation.paired_gain import PairedGain
from polytask.training.runs.console_display import Display
from polytask.training.runs.event_log import Event, EventLog
from polytask.training.runs.tensorboard_writer import TensorBoardWriter

_NUM_PROGRESS_EVENTS = 100


@dataclass(frozen=True, slots=True)
class Step:
    """The result of one update.

    `examples`, `updates`: numbers over the whole run, this update included. `learning_rate`: the largest of any group.
    `task_ids`, `losses`: of the batch's examples; losses before they are weighted. `tokens`: of the batch, without
    padding. `stop`: whether any process was asked to stop. `total`: number of examples of the whole run, as far as known;
    None if it is as before.
    """

    examples: int
    updates: int
    learning_rate: float
    task_ids: Sequence[int]
    losses: Sequence[float]
    tokens: int
    stop: bool
    total: int | None = None


class RunLogger:
    """Sends every event to the event log and to TensorBoard, if there are any, and every step to the display.

    A `progress` event is emitted after about every hundredth of the run and covers the steps since the previous one.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        total: int,
        display: Display,
        event_log: EventLog | None = None,
        tensorboard: TensorBoardWriter | None = None,
    ) -> None:
        """`total`: the number of examples of the whole run, as planned."""
        self.examples = self._intervals = 0
        self._tasks, self._total, self._display = tasks, total, display
        self._event_log, self._tensorboard = event_log, tensorboard
        self._earlier_seconds, self._started = 0.0, time.monotonic()
        self._reset_interval()

    def start(self, recipe: str, parameters: Mapping[str, Any]) -> None:
        """Logs that the run begins. `parameters`: their numbers by part of the network."""
        tasks = [{"name": task.name, "kind": str(task.kind)} for task in self._tasks]
        event = {"event": "start", "time": _now(), "recipe": recipe, "tasks": tasks, "total_examples": self._total}
        self._emit(event | {"parameters": dict(parameters)})

    def resume(self) -> None:
        """Logs that the run was resumed."""
        self._emit({"event": "resume", "time": _now(), "examples": self.examples})

    def advance(self, step: Step) -> None:
        """Adds an update."""
        for task_id, loss in zip(step.task_ids, step.losses, strict=True):
            self._counts[task_id] += 1
            self._sums[task_id] += loss
        self.examples, self._total = step.examples, step.total or self._total
        self._display.advance(step.task_ids, step.losses, step.total)
        if self._intervals < self._num_intervals:
            self._intervals = self._num_intervals
            self._emit(self._progress(step))
            self._reset_interval()

    def log_evaluation(self, scores: Mapping[str, Scores]) -> None:
        """Logs the metrics of every task on validation data, as just measured."""
        self._display.show_scores(scores)
        self._emit({"event": "evaluation", "examples": self.examples, "scores": scores})

    def log_tuning(self, gains: Mapping[str, PairedGain]) -> None:
        """Logs what the second stage came to, by task."""
        for task, gain in gains.items():
            event = {"event": "tuned", "examples": self.examples, "task": task, **asdict(gain)}
            self._emit(event | {"kept": gain.is_sure})

    def log_selection(self, scores: Mapping[str, Scores], warnings: Mapping[str, str]) -> None:
        """Logs the metrics on selection of every task that has some, as just measured, and what is wrong with some heads."""
        self._display.show_scores(scores)
        event = {"event": "selection", "examples": self.examples, "scores": scores}
        self._emit(event | ({"warnings": dict(warnings)} if warnings else {}))

    def finish(self, version: str, ending: str) -> None:
        """Logs that the run has published `version` and ends. `ending`: why, and which state it published."""
        event = {"event": "finish", "examples": self.examples, "seconds": self._seconds, "version": version}
        self._emit(event | {"ending": ending})

    def state(self) -> dict[str, Any]:
        """The state to resume from, as JSON values. `history`: the size of the event log in bytes."""
        return {
            "examples": self.examples,
            "total": self._total,
            "intervals": self._intervals,
            "seconds": self._seconds,
            "counts": self._counts,
            "sums": self._sums,
            "display": self._display.state(),
            "history": 0 if self._event_log is None else self._event_log.size,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a `state`."""
        self.examples, self._counts, self._sums = state["examples"], state["counts"], state["sums"]
        self._total, self._intervals = state["total"], state["intervals"]
        self._earlier_seconds, self._started = state["seconds"], time.monotonic()
        self._display.restore(state["display"])

    @property
    def _num_intervals(self) -> int:
        return self.examples * _NUM_PROGRESS_EVENTS // self._total

    @property
    def _seconds(self) -> float:
        return round(self._earlier_seconds + time.monotonic() - self._started, 3)

    def _reset_interval(self) -> None:
        self._counts, self._sums = [0] * len(self._tasks), [0.0] * len(self._tasks)

    def _progress(self, step: Step) -> Event:
        by_task = list(zip(self._tasks, self._counts, self._sums, strict=True))
        return {
            "event": "progress",
            "examples": step.examples,
            "updates": step.updates,
            "seconds": self._seconds,
            "learning_rate": step.learning_rate,
            "loss": sum(self._sums) / sum(self._counts),
            "tasks": {
                task.name: {"examples": count, "loss": total / count if count else None}
                for task, count, total in by_task
            },
        }

    def _emit(self, event: Event) -> None:
        if self._event_log is not None:
            self._event_log.append(event)
        if self._tensorboard is not None:
            self._tensorboard.add(event)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
