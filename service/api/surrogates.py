"""Lone surrogates: half of a character's pair in JSON, such as a cut-off emoji, which parsers refuse without its place."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails


def read_with_surrogates(body: bytes) -> Any:
    """The values of a JSON body that may have lone surrogates. Raises ValueError for other text, or JSON nested too deep."""
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("is nested too deep") from error


def about_surrogate(error: ValidationError) -> bool:
    """Whether pydantic has refused a whole body because of a lone surrogate."""
    details: list[ErrorDetails] = error.errors(include_url=False, include_input=False, include_context=False)
    return details[0]["type"] == "json_invalid" and "hex escape" in details[0]["msg"]


def surrogate_place(body: bytes) -> str | None:
    """The place of the first text with a lone surrogate, such as `inputs[0].data[1]`; None if there is none."""
    try:
        return _place(read_with_surrogates(body))
    except (ValueError, RecursionError):
        return None


def _place(value: Any, path: str = "") -> str | None:
    if isinstance(value, str):
        return None if _is_text(value) else path.removeprefix(".") or "body"
    if isinstance(value, dict):
        if not all(map(_is_text, value)):
            return path.removeprefix(".") or "body"
        entries = ((f"{path}.{name}", entry) for name, entry in value.items())
    elif isinstance(value, list):
        entries = ((f"{path}[{index}]", entry) for index, entry in enumerate(value))
    else:
        return None
    return next((place for where, entry in entries if (place := _place(entry, where)) is not None), None)


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"there is no {name} in JSON")
