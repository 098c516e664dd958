"""Strict decoding of JSON to dataclasses: every field must be a key, every key a field, and no value is converted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, SchemaValidator

Decoded = TypeVar("Decoded")

_EXPECTED = {
    "dataclass_type": "an object",
    "dict_type": "an object",
    "tuple_type": "a list",
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "a boolean",
}


class DecodingError(ValueError):
    """A value does not have its type; the message names the key."""


def parse(text: str) -> Any:
    """The values in a JSON text. Raises DecodingError for other text, or JSON that is nested too deep."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DecodingError(f"is not JSON: {error}") from error


def decode(kind: type[Decoded], value: Any, *, defaults: bool = False) -> Decoded:
    """`value`, as parsed from JSON, as a `kind` (a dataclass). Raises DecodingError, which names the key.

    `defaults`: a field that has a default may be missing.
    """
    try:
        place = _not_finite(value)
        if place is not None:
            raise DecodingError(f"{_key(place) or 'the file'} is not a finite number")
        # From text, as only there pydantic's strict mode takes a list for a tuple and a string for an enum member.
        validator, text = _validator(cast(type, kind), defaults), json.dumps(value)
        return cast(Decoded, validator.validate_json(text, strict=True, extra="forbid"))
    except ValidationError as error:
        raise DecodingError(_message(error.errors())) from error
    except RecursionError as error:
        raise DecodingError("is nested too deep") from error


def _not_finite(value: Any) -> tuple[str | int, ...] | None:
    """The place of a number that JSON does not have, but Python reads and writes; None if there is none."""
    if isinstance(value, float):
        return None if math.isfinite(value) else ()
    entries: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list | tuple):
        entries = enumerate(value)
    return next(((step, *place) for step, entry in entries if (place := _not_finite(entry)) is not None), None)


@cache
def _validator(kind: type, defaults: bool) -> SchemaValidator:
    schema = TypeAdapter(kind).core_schema
    return SchemaValidator(schema if defaults else _without_defaults(schema))


def _without_defaults(schema: Any) -> Any:
    """The schema with every field required: a default is for programs, not for files."""
    if isinstance(schema, list):
        return [_without_defaults(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "default":
        return _without_defaults(schema["schema"])
    return {key: _without_defaults(part) for key, part in schema.items()}


def _message(problems: Sequence[ErrorDetails]) -> str:
    problem = min(problems, key=lambda each: len(each["loc"]))
    *parent, last = location = problem["loc"] or ("",)
    alike = [each["loc"] for each in problems if each["type"] == problem["type"] and each["loc"]]
    keys = ", ".join(sorted(repr(key) for *path, key in alike if path == parent))
    where = _key(location) or "the file"
    match problem["type"]:
        case "missing" if isinstance(last, str):
            return f"{_key(parent)} lacks key {keys}".lstrip()
        case "missing":
            return f"{where} is missing"
        case "unexpected_keyword_argument":
            return f"{_key(parent)} has unknown key {keys}".lstrip()
        case "enum":
            return f"{where}: {problem['input']!r} is not one of {problem['ctx']['expected']}"
        case kind if kind in _EXPECTED:
            return f"{where} must be {_EXPECTED[kind]}, is {problem['input']!r:.60}"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}"


def _key(location: Iterable[str | int]) -> str:
    steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return f"key {steps.lstrip('.')!r}" if steps.lstrip(".") else ""
