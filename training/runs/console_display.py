"""How far a run is, for the eye: a live table of its tasks with the time left; without a terminal, a line now and then."""

from __future__ import annotations

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

_SMOOTHING = 0.98
_LINES = 50


class Display:
    """Shows the examples seen, the time left, and of each task a running loss, its metric and its share.

    A context manager. The table is drawn twice a second by a thread of its own, so that a step only counts.
    """

    def __init__(self, console: Console, tasks: Sequence[Task], total: int) -> None:
        self._console = console
        self._tasks = tasks
        self._total = total
        self._losses: list[float | None] = [None] * len(tasks)
        self._counts = [0] * len(tasks)
        self._metrics = [""] * len(tasks)
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
        self._live = Live(console=console, refresh_per_second=2, get_renderable=self._picture)

    def __enter__(self) -> Self:
        self._progress.reset(self._bar, completed=min(sum(self._counts), self._total))
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def advance(self, task_ids: Sequence[int], losses: Sequence[float]) -> None:
        """Counts in a batch that was trained on: the task and the loss of each example."""
        for task_id, loss in zip(task_ids, losses, strict=True):
            mean = self._losses[task_id]
            self._losses[task_id] = loss if mean is None else _SMOOTHING * mean + (1 - _SMOOTHING) * loss
            self._counts[task_id] += 1
        before = self._progress.tasks[0].completed
        after = min(before + len(losses), self._total)
        self._progress.update(self._bar, completed=after)
        if not self._console.is_terminal and int(before * _LINES / self._total) < int(after * _LINES / self._total):
            self._console.print(f"{self._time_line(int(after))}  {self._loss_line()}", soft_wrap=True, highlight=False)

    def task_answered(self, name: str) -> None:
        """An evaluation goes on, and the network has answered the task of that name; they come in order."""
        done = 1 + [task.name for task in self._tasks].index(name)
        self._say(f"; evaluating, {done} of {len(self._tasks)} tasks done")

    def show_scores(self, scores: Mapping[str, Scores]) -> None:
        """The evaluation is over; the table shows the first metric of each task."""
        self._say("")
        for place, task in enumerate(self._tasks):
            metric, value = next(iter(scores[task.name].items()))
            self._metrics[place] = f"{metric} {value:.4f}"

    def state(self) -> dict[str, Any]:
        """What it shows, as JSON values."""
        return {"losses": self._losses, "counts": self._counts, "metrics": self._metrics}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Puts `state` back, before the display is entered."""
        self._losses, self._counts, self._metrics = state["losses"], state["counts"], state["metrics"]

    def _say(self, text: str) -> None:
        self._progress.update(self._bar, description=text)

    def _picture(self) -> Group:
        # The bar first: where the tasks are more than the terminal has lines, the last ones are cut off.
        return Group(self._progress, self._table())

    def _table(self) -> Table:
        table = Table("task", "loss", "validation", "share", "examples", box=box.SIMPLE, padding=(0, 1, 0, 0))
        seen = sum(self._counts) or 1
        for task, loss, count, metric in zip(self._tasks, self._losses, self._counts, self._metrics, strict=True):
            shown = "" if loss is None else f"{loss:.3f}"
            table.add_row(task.name, shown, metric, f"{count / seen:.1%}", f"{count:,}")
        return table

    def _time_line(self, seen: int) -> str:
        task = self._progress.tasks[0]
        left = "?" if task.time_remaining is None else f"{task.time_remaining / 60:.1f}"
        return f"{seen:,} of {self._total:,} examples, {(task.elapsed or 0) / 60:.1f} min gone, {left} left."

    def _loss_line(self) -> str:
        known = zip(self._tasks, self._losses, strict=True)
        return "loss: " + ", ".join(f"{task.name} {loss:.2f}" for task, loss in known if loss is not None)
