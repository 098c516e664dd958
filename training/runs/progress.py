"""Progress of what takes long beside the training itself: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from polytask.model.encoding import Input
from polytask.model.network import Network

LOG_INTERVAL_S = 10.0
"""Seconds between two lines of a log."""

Item = TypeVar("Item")


class ProgressBar:
    """How much of a work is done. A context manager."""

    def __init__(self, console: Console, doing: str, total: int, unit: str = "") -> None:
        """`doing`: what is done, as in "reading". `unit`: what `total` is a number of."""
        self._console, self._doing, self._total, self._unit = console, doing, total, unit
        self._done, self._said = 0, time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        self._progress = Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=console, transient=True)
        self._bar = self._progress.add_task(doing, total=total)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def advance(self, count: int = 1) -> None:
        """Adds what was done. Of an estimated total no more than all is shown."""
        self._done = min(self._done + count, self._total)
        self._progress.update(self._bar, completed=self._done)
        if not self._console.is_terminal and time.monotonic() - self._said > LOG_INTERVAL_S:
            self._said = time.monotonic()
            line = f"{self._doing}: {self._done:,} of {self._total:,} {self._unit}".rstrip()
            self._console.print(line, soft_wrap=True, highlight=False)


def track(console: Console, doing: str, items: Sequence[Item]) -> Iterator[Item]:
    """The items, each counted when the next one is asked for."""
    with ProgressBar(console, doing, len(items)) as bar:
        for item in items:
            yield item
            bar.advance()


@contextmanager
def rows_counted(network: Network, advance: Callable[[int], None]) -> Iterator[None]:
    """Calls `advance` with the number of rows of every forward during the block."""

    def count(_network: Network, _arguments: Any, outputs: Any) -> None:
        advance(len(outputs.sentence))

    handle = network.register_forward_hook(count)
    try:
        yield
    finally:
        handle.remove()


def num_rows(inputs: Iterable[Input]) -> int:
    """The number of rows that a network reads for the inputs."""
    return sum(max(1, len(item.candidates)) for item in inputs)
