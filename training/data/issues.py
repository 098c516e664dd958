"""What is wrong with data: every bad record by file and line, the first twenty of each sort word for word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

_MOST_OF_A_SORT = 20

Read = TypeVar("Read")


@dataclass(slots=True)
class _Sort:
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def __str__(self) -> str:
        more = self.count - len(self.lines)
        return "\n".join(self.lines) + (f"\n… and {more} more" if more else "")


class DataIssues:
    """Collects what is wrong and raises it all at once, sort by sort in the order in which they first appeared."""

    def __init__(self) -> None:
        self._sorts: dict[str, _Sort] = {}

    def add(self, place: str, message: str, sort: str | None = None) -> None:
        """Notes a problem. `sort` is what it has in common with others of its sort; by default the whole message."""
        self._note(sort or message, [f"{place}: {message}"])

    def extend(self, other: DataIssues) -> None:
        """Notes all that the other has noted."""
        for name, sort in other._sorts.items():
            self._note(name, sort.lines, sort.count)

    def raise_if_any(self) -> None:
        """Raises DataError with every noted problem."""
        if self._sorts:
            raise DataError(self)

    def _note(self, name: str, lines: Sequence[str], count: int = 1) -> None:
        sort = self._sorts.setdefault(name, _Sort())
        sort.lines += lines[: _MOST_OF_A_SORT - len(sort.lines)]
        sort.count += count

    def __str__(self) -> str:
        return "\n".join(map(str, self._sorts.values()))

    @classmethod
    def of(cls, message: str) -> DataIssues:
        """One problem that has no place of its own."""
        problems = cls()
        problems._note(message, [message])
        return problems


class DataError(Exception):
    """Data that cannot be trained on. The message says what is wrong and where; `problems` holds it sort by sort."""

    def __init__(self, wrong: DataIssues | str) -> None:
        super().__init__(str(wrong))
        self.problems = DataIssues.of(wrong) if isinstance(wrong, str) else wrong


def read_all(readers: Iterable[Callable[[], Read]]) -> list[Read]:
    """What each of the readers gives. Raises one DataError with what all of them found wrong."""
    found, problems = [], DataIssues()
    for reader in readers:
        try:
            found.append(reader())
        except DataError as error:
            problems.extend(error.problems)
    problems.raise_if_any()
    return found
