"""Data issues: errors in data by file and line, collected by category, with twenty different ones of each written out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

_MAX_PER_CATEGORY = 20
_MAX_NEXT_LINES = 3

Read = TypeVar("Read")


@dataclass(slots=True)
class _Mistake:
    """The same mistake in `count` places of a file, with the first of them and the numbers of a few more."""

    location: str
    message: str
    count: int = 1
    next_lines: list[str] = field(default_factory=list)

    def merge(self, other: _Mistake) -> None:
        """Adds the places of another mistake in the same file with the same message."""
        lines = [other.location.rpartition(":")[2], *other.next_lines]
        self.next_lines = [*self.next_lines, *lines][:_MAX_NEXT_LINES]
        self.count += other.count

    def __str__(self) -> str:
        more = self.count - 1
        numbers = ", ".join(self.next_lines) + (", …" if more > len(self.next_lines) else "")
        again = f" (and {more:,} more: {numbers})" if more else ""
        return f"{self.location}: {self.message}{again}" if self.location else self.message


@dataclass(slots=True)
class _Category:
    mistakes: dict[tuple[str, str], _Mistake] = field(default_factory=dict)
    unlisted: int = 0

    def add(self, mistake: _Mistake) -> None:
        key = (mistake.location.rpartition(":")[0], mistake.message)
        if key in self.mistakes:
            self.mistakes[key].merge(mistake)
        elif len(self.mistakes) < _MAX_PER_CATEGORY:
            self.mistakes[key] = mistake
        else:
            self.unlisted += mistake.count

    def __str__(self) -> str:
        more = f"\n… and {self.unlisted} more" if self.unlisted else ""
        return "\n".join(map(str, self.mistakes.values())) + more


class DataIssues:
    """Collects errors in data and raises them together, by category, in the order in which categories appeared.

    The same mistake in many lines of a file is one line with their number.
    """

    def __init__(self) -> None:
        self._categories: dict[str, _Category] = {}

    @property
    def count(self) -> int:
        """Number of issues; that of bad rows, if each has one."""
        mistakes = (m.count for category in self._categories.values() for m in category.mistakes.values())
        return sum(mistakes) + sum(category.unlisted for category in self._categories.values())

    def add(self, location: str, message: str, category: str | None = None) -> None:
        """Adds an issue. `category`: a name for all issues of its kind, by default the message."""
        self._categories.setdefault(category or message, _Category()).add(_Mistake(location, message))

    def extend(self, other: DataIssues) -> None:
        """Adds all issues of the other."""
        for name, category in other._categories.items():
            own = self._categories.setdefault(name, _Category())
            for mistake in category.mistakes.values():
                own.add(replace(mistake))
            own.unlisted += category.unlisted

    def raise_if_any(self) -> None:
        """Raises DataError with all issues, if there are any."""
        if self._categories:
            raise DataError(self)

    def __str__(self) -> str:
        return "\n".join(map(str, self._categories.values()))

    @classmethod
    def from_message(cls, message: str) -> DataIssues:
        """One issue without a location."""
        issues = cls()
        issues.add("", message)
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
