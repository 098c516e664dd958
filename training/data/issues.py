"""Data issues: errors in data by file and line, collected by category, with the first twenty of each written out."""

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
    """Collects errors in data and raises them together, by category, in the order in which categories appeared."""

    def __init__(self) -> None:
        self._categories: dict[str, _Category] = {}

    def add(self, location: str, message: str, category: str | None = None) -> None:
        """Adds an issue. `category`: a name for all issues of its kind, by default the message."""
        self._add_lines(category or message, [f"{location}: {message}"])

    def extend(self, other: DataIssues) -> None:
        """Adds all issues of the other."""
        for name, category in other._categories.items():
            self._add_lines(name, category.lines, category.count)

    def raise_if_any(self) -> None:
        """Raises DataError with all issues, if there are any."""
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
        """One issue without a location."""
        issues = cls()
        issues._add_lines(message, [message])
        return issues


class DataError(Exception):
    """Data that cannot be trained on. The message names every error and its location; `issues` holds them by category."""

    def __init__(self, issues: DataIssues | str) -> None:
        super().__init__(str(issues))
        self.issues = DataIssues.from_message(issues) if isinstance(issues, str) else issues


def read_all(readers: Iterable[Callable[[], Read]]) -> list[Read]:
    """The results of all readers. Raises one DataError with the issues of all of them."""
    results, issues = [], DataIssues()
    for reader in readers:
        try:
            results.append(reader())
        except DataError as error:
            issues.extend(error.issues)
    issues.raise_if_any()
    return results
