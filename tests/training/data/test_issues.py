"""Data issues: errors are listed by category, at most twenty of each, and raised together."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from polytask.training.data.issues import DataError, DataIssues, read_all


def _message(issues: DataIssues) -> str:
    with pytest.raises(DataError) as caught:
        issues.raise_if_any()
    return str(caught.value)


@pytest.mark.parametrize("count", [19, 20, 21, 45])
def test_the_first_twenty_issues_are_listed_and_the_rest_counted(count: int) -> None:
    """Of one category at most 20 different issues are listed, and the number of the others is given."""
    issues = DataIssues()
    for number in range(count):
        issues.add(f"file:{number}", f"label {number}", category="unknown label")
    listed = [f"file:{number}: label {number}" for number in range(min(count, 20))]
    assert _message(issues).splitlines() == listed + ([f"… and {count - 20} more"] if count > 20 else [])
    assert issues.count == count


def test_one_mistake_in_many_lines_is_one_line() -> None:
    """The same message for many lines of a file is written once, with the numbers of the next lines and of all others."""
    issues, other = DataIssues(), DataIssues()
    for number in range(2, 22):
        issues.add(f"a.csv:{number}", "label: empty")
    other.add("a.csv:30", "label: empty")
    other.add("b.csv:7", "label: empty")
    issues.extend(other)
    assert _message(issues).splitlines() == [
        "a.csv:2: label: empty (and 20 more: 3, 4, 5, …)",
        "b.csv:7: label: empty",
    ]
    assert issues.count == 22


def test_each_category_is_listed_by_itself() -> None:
    """Each category has its own twenty issues, in the order in which categories first appeared."""
    issues = DataIssues()
    for number in range(30):
        issues.add(f"a:{number}", f"label {number}", category="unknown label")
        if number % 10 == 0:
            issues.add(f"a:{number}", "blank")
    lines = _message(issues).splitlines()
    assert lines[:21] == [*(f"a:{number}: label {number}" for number in range(20)), "… and 10 more"]
    assert lines[21:] == ["a:0: blank (and 2 more: 10, 20)"]


def test_no_issue_is_no_error() -> None:
    """Without issues nothing is raised."""
    DataIssues().raise_if_any()


def test_issues_of_several_files_come_together() -> None:
    """The issues of all readers are one error, and a category counts over all files."""

    def reader(file: str, count: int) -> Callable[[], str]:
        def read() -> str:
            issues = DataIssues()
            for number in range(count):
                issues.add(f"{file}:{number}", f"label {number}", category="unknown label")
            issues.raise_if_any()
            return file

        return read

    def missing() -> str:
        raise DataError("c: cannot be read")

    assert read_all([reader("a", 0), reader("b", 0)]) == ["a", "b"]
    with pytest.raises(DataError) as caught:
        read_all([reader("a", 15), missing, reader("b", 15)])
    lines = str(caught.value).splitlines()
    assert lines[14:21] == ["a:14: label 14", *(f"b:{number}: label {number}" for number in range(5)), "… and 10 more"]
    assert lines[21:] == ["c: cannot be read"]
