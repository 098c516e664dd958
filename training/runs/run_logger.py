"""What a run says of itself while it goes on, as events: to its history, TensorBoard and the display alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from polytask.model.tasks import Task
from polytask.training.evaluation.metrics import Scores
from polytask.training.runs.console_display import Display
from polytask.training.runs.event_log import Event, EventLog
from polytask.training.runs.tensorboard_writer import TensorBoardWriter

_EVENTS = 100


@dataclass(frozen=True, slots=True)
class Step:
    """What came of one update.

    `examples`, `updates`: counted over the whole run, this one included. `learning_rate`: the greatest of any group.
    `task_ids`, `losses`: of the batch's examples, the losses before their tasks' weights. `tokens`: of the batch,
    without padding. `stop`: whether any process was asked to stop.
    """

    examples: int
    updates: int
    learning_rate: float
    task_ids: Sequence[int]
    losses: Sequence[float]
    tokens: int
    stop: bool


class RunLogger:
    """Tells every event to the history and the board, where there are any, and every step to the display.

    A `progress` event comes about every hundredth of the run and sums up what happened since the one before.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        total: int,
        display: Display,
        history: EventLog | None = None,
        board: TensorBoardWriter | None = None,
    ) -> None:
        """`total`: the examples of the whole run."""
        self.examples = 0
        self._tasks, self._total, self._display = tasks, total, display
        self._history, self._board = history, board
        self._earlier, self._begun = 0.0, time.monotonic()
        self._reset_interval()

    def start(self, recipe: str, parameters: Mapping[str, Any]) -> None:
        """The run begins. `parameters`: how many there are, of what."""
        tasks = [{"name": task.name, "kind": str(task.kind)} for task in self._tasks]
        event = {"event": "start", "time": _now(), "recipe": recipe, "tasks": tasks, "total_examples": self._total}
        self._emit(event | {"parameters": dict(parameters)})

    def resume(self) -> None:
        """The run goes on after it was stopped."""
        self._emit({"event": "resume", "time": _now(), "examples": self.examples})

    def advance(self, step: Step) -> None:
        """Counts in an update."""
        for task_id, loss in zip(step.task_ids, step.losses, strict=True):
            self._counts[task_id] += 1
            self._sums[task_id] += loss
        before, self.examples = self.examples, step.examples
        self._display.advance(step.task_ids, step.losses)
        if before * _EVENTS // self._total < self.examples * _EVENTS // self._total:
            self._emit(self._progress(step))
            self._reset_interval()

    def log_evaluation(self, scores: Mapping[str, Scores]) -> None:
        """The metrics of every task, measured now."""
        self._display.show_scores(scores)
        self._emit({"event": "evaluation", "examples": self.examples, "scores": scores})

    def finish(self, version: str) -> None:
        """The run is over and has published `version`."""
        self._emit({"event": "finish", "examples": self.examples, "seconds": self._seconds, "version": version})

    def state(self) -> dict[str, Any]:
        """What a run that goes on needs, as JSON values; `history`: the bytes that its history has now."""
        return {
            "examples": self.examples,
            "seconds": self._seconds,
            "counts": self._counts,
            "sums": self._sums,
            "display": self._display.state(),
            "history": 0 if self._history is None else self._history.size,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Puts `state` back."""
        self.examples, self._counts, self._sums = state["examples"], state["counts"], state["sums"]
        self._earlier, self._begun = state["seconds"], time.monotonic()
        self._display.restore(state["display"])

    @property
    def _seconds(self) -> float:
        return round(self._earlier + time.monotonic() - self._begun, 3)

    def _reset_interval(self) -> None:
        self._counts, self._sums = [0] * len(self._tasks), [0.0] * len(self._tasks)

    def _progress(self, step: Step) -> Event:
        counted = list(zip(self._tasks, self._counts, self._sums, strict=True))
        return {
            "event": "progress",
            "examples": step.examples,
            "updates": step.updates,
            "seconds": self._seconds,
            "learning_rate": step.learning_rate,
            "loss": sum(self._sums) / sum(self._counts),
            "tasks": {
                task.name: {"examples": count, "loss": total / count if count else None}
                for task, count, total in counted
            },
        }

    def _emit(self, event: Event) -> None:
        if self._history is not None:
            self._history.append(event)
        if self._board is not None:
            self._board.add(event)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
