"""Validation errors: the first problem of a pydantic error in one line, for settings, API keys and task policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

_UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument"}
_OUT_OF_RANGE = {"greater_than_equal", "less_than_equal"}
_EXPECTED = {
    "bool_parsing": "yes or no",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
}
_MOST_SHOWN = 40
"""Characters of an unknown name that a message has: it may be a secret in the wrong place."""


def first_problem(
    error: ValidationError, fields: Mapping[str, FieldInfo], *, show_input: bool = True
) -> tuple[tuple[str, ...], str]:
    """Where the first problem is, and a predicate for it such as `must be a whole number, got 'x'`.

    `fields`: those that there are. `show_input`: whether the message may quote the value; it always quotes a number that is
    out of range.
    """
    problem = error.errors(include_url=False)[0]
    path = tuple(str(part)[:_MOST_SHOWN] for part in problem["loc"])
    kind, value = problem["type"], problem["input"]
    if kind in _UNKNOWN:
        return path, f"is none of {', '.join(fields)}"
    if kind == "value_error":
        return path, str(problem["ctx"]["error"])
    if kind in _OUT_OF_RANGE:
        return path, f"must be {_range(fields[path[-1]].metadata)}, got {value!r}"
    if kind in _EXPECTED:
        message = f"must be {_EXPECTED[kind]}"
    else:
        message = problem["msg"].replace("Input should", "must").replace("Invalid JSON", "is not valid JSON")
    return path, f"{message}, got {value!r}" if show_input else message


def _range(bounds: list[Any]) -> str:
    return " and ".join(f"at least {bound.ge}" if hasattr(bound, "ge") else f"at most {bound.le}" for bound in bounds)
