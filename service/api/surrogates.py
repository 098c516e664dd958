"""Lone surrogates: half of a character's pair in JSON, such as a cut-off emoji, which parsers refuse without its place."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

HALF_A_PAIR = "has half of a surrogate pair, as of an emoji that was cut in two"


def read_with_surrogates(body: bytes) -> Any:
    """The values of a JSON body that may have lone surrogates. Raises ValueError for other text, or JSON nested too deep."""
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("is nested too deep") from error


def about_surrogate(error: ValidationError) -> bool:
    """Whether pydantic has refused a whole body because of a lone surrogate."""
    if error.error_count() > 1:
        return False  # of the shape; to list all of them could take long
    details: list[ErrorDetails] = error.errors(include_url=False, include_input=False, include_context=False)
    return details[0]["type"] == "json_invalid" and "hex escape" in details[0]["msg"]


def surrogate_place(body: bytes) -> str | None:
    """As `lone_surrogate`, for a JSON body; None as well if it is none."""
    try:
        return lone_surrogate(read_with_surrogates(body))
    except ValueError:
        return None


def lone_surrogate(value: Any, path: str = "") -> str | None:
    """The place of the first text with a lone surrogate, such as `inputs[0].data[1]`; None if there is none.

    `path`: place of `value`. A key with one counts as the object's.
    """
    # No recursion: a value may be nested as deep as the parser allows.
    left = [(path, value)]
    while left:
        place, part = left.pop()
        texts: Collection[str]
        if isinstance(part, dict):
            texts, entries = part.keys(), [(f"{place}.{name}", entry) for name, entry in part.items()]
        elif isinstance(part, list):
            texts, entries = (), [(f"{place}[{index}]", entry) for index, entry in enumerate(part)]
        else:
            texts, entries = (part,) if isinstance(part, str) else (), []
        if not all(map(_is_text, texts)):
            return place.removeprefix(".") or "body"
        left += reversed(entries)
    return None


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"there is no {name} in JSON")
