"""Validation errors of pydantic as messages: no error that only follows from another, and suggestions for wrong names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

import pydantic
from pydantic_core import ErrorDetails


def error_details(error: pydantic.ValidationError) -> list[ErrorDetails]:
    """The errors, without a list's being too short if it is so only because of an error within it."""
    details = error.errors()
    within = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]))}
    return [detail for detail in details if detail["type"] != "too_short" or detail["loc"] not in within]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A question for a message about an unknown name: the one of `names` that it resembles; empty if none does."""
    folded = {other.casefold().strip(): other for other in names}
    close = get_close_matches(name.casefold().strip(), folded, n=1)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""
