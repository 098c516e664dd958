"""Progress bar of a stream, with the time left, on stderr if that is a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Generator, Sized
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_Item = TypeVar("_Item")


class Bar:
    """Counts finished answers, of `total` if that is known. A context manager."""

    def __init__(self, total: int | None, done: int = 0, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("answers,"),
            TimeElapsedColumn(),
            TextColumn("gone,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=total, completed=done)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self) -> None:
        """Counts one more answer."""
        self._progress.advance(self._task)

    def print_line(self, text: str) -> None:
        """Prints a line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def with_bar(answers: Generator[_Item, None, None], inputs: object, *, progress: bool) -> Generator[_Item, None, None]:
    """The answers, with a bar if `progress`; the bar has a total if the inputs have a length."""
    return _with_bar(answers, _bar(inputs)) if progress else answers


def async_with_bar(
    answers: AsyncGenerator[_Item, None], inputs: object, *, progress: bool
) -> AsyncGenerator[_Item, None]:
    """As `with_bar`, for an async generator."""
    return _async_with_bar(answers, _bar(inputs)) if progress else answers


def _bar(inputs: object) -> Bar:
    return Bar(len(inputs) if isinstance(inputs, Sized) else None)


def _with_bar(answers: Generator[_Item, None, None], bar: Bar) -> Generator[_Item, None, None]:
    with bar, contextlib.closing(answers):
        for answer in answers:
            yield answer
            bar.advance()


async def _async_with_bar(answers: AsyncGenerator[_Item, None], bar: Bar) -> AsyncGenerator[_Item, None]:
    with bar:
        async with contextlib.aclosing(answers):
            async for answer in answers:
                yield answer
                bar.advance()
