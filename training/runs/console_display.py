"""Console display of a run: a live table of its tasks and the time left, or log lines if there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from polytask.model.tasks import Task
from polytask.training.evaluation.metrics import Scores
from polytask.training.runs.progress import LOG_INTERVAL_S

_SMOOTHING = 0.98
_NUM_LOG_LINES = 50


class Display:
    """Shows the number of examples, the time left, and each task's running loss, metric and share.

    A context manager. Its own thread draws the table twice a second, so a step only updates counters.
    """

    def __init__(self, console: Console, tasks: Sequence[Task], total: int) -> None:
        self._console = console
        self._tasks = tasks
        self._total = total
        self._losses: list[float | None] = [None] * len(tasks)
        self._counts = [0] * len(tasks)
        self._lines = 0
        self._metrics = [""] * len(tasks)
        self._doing, self._done, self._work, self._said = "", 0, 0, time.monotonic()
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("examples,"),
            TimeElapsedColumn(),
            TextColumn("gone,"),
            TimeRemainingColumn(),
            TextColumn("left{task.description}"),
        )
        self._bar = self._progress.add_task("", total=total)
        self._live = Live(console=console, refresh_per_second=2, get_renderable=self._render)

    def __enter__(self) -> Self:
        self._progress.reset(self._bar, completed=min(sum(self._counts), self._total))
        self._lines = int(min(sum(self._counts), self._total) * _NUM_LOG_LINES / self._total)
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def advance(self, task_ids: Sequence[int], losses: Sequence[float], total: int | None = None) -> None:
        """Adds a batch of the training: the task and the loss of each example. `total`: of the run, if it has changed."""
        for task_id, loss in zip(task_ids, losses, strict=True):
            mean = self._losses[task_id]
            self._losses[task_id] = loss if mean is None else _SMOOTHING * mean + (1 - _SMOOTHING) * loss
            self._counts[task_id] += 1
        before = self._progress.tasks[0].completed
        self._total = total or self._total
        after = min(before + len(losses), self._total)
        self._progress.update(self._bar, completed=after, total=self._total)
        line = int(after * _NUM_LOG_LINES / self._total)
        if not self._console.is_terminal and line > self._lines:
            self._lines = line
            self._console.print(f"{self._time_line(int(after))}  {self._loss_line()}", soft_wrap=True, highlight=False)

    def begin(self, doing: str, total: int) -> None:
        """Shows that something else than training is done, such as an evaluation. `total`: the steps that it has."""
        self._doing, self._done, self._work = doing, 0, total
        self._show_work()

    def advance_work(self, count: int = 1) -> None:
        """Adds steps of what `begin` has named. Of an estimated total no more than all is shown."""
        self._done = min(self._done + count, self._work)
        self._show_work()

    def show_scores(self, scores: Mapping[str, Scores]) -> None:
        """Shows the first metric of each measured task, after an evaluation."""
        self._set_status("")
        for index, task in enumerate(self._tasks):
            for metric, value in [*scores.get(task.name, {}).items()][:1]:
                self._metrics[index] = f"{metric} {value:.4f}"

    def state(self) -> dict[str, Any]:
        """The content of the table, as JSON values."""
        return {"losses": self._losses, "counts": self._counts, "metrics": self._metrics}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a `state`, before the display is entered."""
        self._losses, self._counts, self._metrics = state["losses"], state["counts"], state["metrics"]

    def _show_work(self) -> None:
        text = f"{self._doing}, {self._done / max(1, self._work):.0%} done"
        self._set_status(f"; {text}")
        if not self._console.is_terminal and time.monotonic() - self._said > LOG_INTERVAL_S:
            self._said = time.monotonic()
            self._console.print(text, soft_wrap=True, highlight=False)

    def _set_status(self, text: str) -> None:
        self._progress.update(self._bar, description=text)

    def _render(self) -> Group:
        # The bar comes first, because rich cuts off the end if there are more tasks than lines in the terminal.
        return Group(self._progress, self._table())

    def _table(self) -> Table:
        table = Table("task", "loss", "score", "share", "examples", box=box.SIMPLE, padding=(0, 1, 0, 0))
        seen = sum(self._counts) or 1
        for task, loss, count, metric in zip(self._tasks, self._losses, self._counts, self._metrics, strict=True):
            loss_text = "" if loss is None else f"{loss:.3f}"
            table.add_row(task.name, loss_text, metric, f"{count / seen:.1%}", f"{count:,}")
        return table

    def _time_line(self, seen: int) -> str:
        task = self._progress.tasks[0]
        left = "?" if task.time_remaining is None else f"{task.time_remaining / 60:.1f}"
        return f"{seen:,} of {self._total:,} examples, {(task.elapsed or 0) / 60:.1f} min gone, {left} left."

    def _loss_line(self) -> str:
        losses = zip(self._tasks, self._losses, strict=True)
        return "loss: " + ", ".join(f"{task.name} {loss:.2f}" for task, loss in losses if loss is not None)
