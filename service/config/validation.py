"""Validation errors: the first problem of a pydantic error in one line, for settings, API keys and task policies."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError

_UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument"}
_MOST_SHOWN = 40
"""Characters of an unknown name that a message has: it may be a secret in the wrong place."""


def first_problem(
    error: ValidationError, names: Iterable[str], *, show_input: bool = True
) -> tuple[tuple[str, ...], str]:
    """Where the first problem is, and a predicate for it such as `must be a valid integer, got 'x'`.

    `names`: the fields that there are. `show_input`: whether the message may quote the value.
    """
    problem = error.errors(include_url=False)[0]
    path = tuple(str(part)[:_MOST_SHOWN] for part in problem["loc"])
    if problem["type"] in _UNKNOWN:
        return path, f"is none of {', '.join(names)}"
    if problem["type"] == "bool_parsing":
        return path, f"must be yes or no, got {problem['input']!r}"
    message = problem["msg"].replace("Input should", "must").replace("Invalid JSON", "is not valid JSON")
    return path, f"{message}, got {problem['input']!r}" if show_input else message
