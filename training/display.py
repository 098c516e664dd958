"""How far a run is, for the eye: a live bar with the time left, or a line now and then where there is no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from model.tasks import Task
from training.examples import EncodedExample

_SMOOTHING = 0.98
_LINES = 50


class Display:
    """Shows the examples seen, the time left, and a running mean of each task's loss. A context manager."""

    def __init__(self, console: Console, tasks: Sequence[Task], total: int) -> None:
        self._console = console
        self._tasks = tasks
        self._total = total
        self._losses: list[float | None] = [None] * len(tasks)
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("examples,"),
            TimeElapsedColumn(),
            TextColumn("gone,"),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        self._bar = self._progress.add_task("", total=total)
        self._live = Live(console=console, refresh_per_second=2)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def advance(self, examples: Sequence[EncodedExample], losses: Tensor) -> None:
        """Counts in a batch that was trained on; `losses` [examples]."""
        for example, loss in zip(examples, losses.tolist(), strict=True):
            mean = self._losses[example.task_id]
            self._losses[example.task_id] = loss if mean is None else _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        before = self._progress.tasks[0].completed
        after = min(before + len(examples), self._total)
        self._progress.update(self._bar, completed=after)
        if self._console.is_terminal:
            self._live.update(Group(self._progress, Text(self._loss_line())))
        elif int(before * _LINES / self._total) < int(after * _LINES / self._total):
            self._console.print(f"{self._time_line(int(after))}  {self._loss_line()}", soft_wrap=True, highlight=False)

    def _time_line(self, seen: int) -> str:
        task = self._progress.tasks[0]
        left = "?" if task.time_remaining is None else f"{task.time_remaining / 60:.1f}"
        return f"{seen:,} of {self._total:,} examples, {(task.elapsed or 0) / 60:.1f} min gone, {left} left."

    def _loss_line(self) -> str:
        known = zip(self._tasks, self._losses, strict=True)
        return "loss: " + ", ".join(f"{task.name} {loss:.2f}" for task, loss in known if loss is not None)
