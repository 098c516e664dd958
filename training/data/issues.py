"""What is wrong with data: every bad record by file and line, the first twenty of each sort word for word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

_MAX_PER_CATEGORY = 20

Read = TypeVar("Read")


@dataclass(slots=True)
class _Category:
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def __str__(self) -> str:
        more = self.count - len(self.lines)
        return "\n".join(self.lines) + (f"\n… and {more} more" if more else "")


class DataIssues:
    """Collects what is wrong and raises it all at once, sort by sort in the order in which they first appeared."""

    def __init__(self) -> None:
        self._categories: dict[str, _Category] = {}

    def add(self, place: str, message: str, category: str | None = None) -> None:
        """Notes a problem. `sort` is what it has in common with others of its sort; by default the whole message."""
        self._add_lines(category or message, [f"{place}: {message}"])

    def extend(self, other: DataIssues) -> None:
        """Notes all that the other has noted."""
        for name, category in other._categories.items():
            self._add_lines(name, category.lines, category.count)

    def raise_if_any(self) -> None:
        """Raises DataError with every noted problem."""
        if self._categories:
            raise DataError(self)

    def _add_lines(self, name: str, lines: Sequence[str], count: int = 1) -> None:
        category = self._categories.setdefault(name, _Category())
        category.lines += lines[: _MAX_PER_CATEGORY - len(category.lines)]
        category.count += count

    def __str__(self) -> str:
        return "\n".join(map(str, self._categories.values()))

    @classmethod
    def from_message(cls, message: str) -> DataIssues:
        """One problem that has no place of its own."""
        issues = cls()
        issues._add_lines(message, [message])
        return issues


class DataError(Exception):
    """Data that cannot be trained on. The message says what is wrong and where; `problems` holds it sort by sort."""

    def __init__(self, wrong: DataIssues | str) -> None:
        super().__init__(str(wrong))
        self.issues = DataIssues.from_message(wrong) if isinstance(wrong, str) else wrong


def read_all(readers: Iterable[Callable[[], Read]]) -> list[Read]:
    """What each of the readers gives. Raises one DataError with what all of them found wrong."""
    found, issues = [], DataIssues()
    for reader in readers:
        try:
            found.append(reader())
        except DataError as error:
            issues.extend(error.issues)
    issues.raise_if_any()
    return found
