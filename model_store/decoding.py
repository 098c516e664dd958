"""JSON values to dataclasses by their type hints. Strict: every key must be there, no other may be."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Decoded = TypeVar("Decoded")


class DecodingError(ValueError):
    """A value is not what its type hint says; the message names the key."""


def decode(kind: type[Decoded], value: Any) -> Decoded:
    """`value`, as parsed from JSON, as a `kind` (a dataclass). Raises DecodingError, which names the key."""
    return cast(Decoded, _dataclass(kind, value, ""))


def _decode(hint: Any, value: Any, key: str) -> Any:
    if get_origin(hint) is not None:
        return _container(get_origin(hint), get_args(hint), value, key)
    if hint is Any:
        return value
    if is_dataclass(hint):
        return _dataclass(cast(type, hint), value, key)
    if issubclass(hint, Enum):
        return _enum(hint, value, key)
    return _plain(hint, value, key)


def _container(origin: Any, arguments: tuple[Any, ...], value: Any, key: str) -> Any:
    if origin is tuple:
        return _tuple(arguments, value, key)
    if origin is dict:
        _expect(dict, value, key)
        return {name: _decode(arguments[1], entry, f"{key}.{name}") for name, entry in value.items()}
    assert origin in {Union, types.UnionType}, f"key {key!r}: a type hint that no manifest has had so far"
    if value is None:
        return None
    (kind,) = (argument for argument in arguments if argument is not types.NoneType)
    return _decode(kind, value, key)


def _plain(kind: type, value: Any, key: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    _expect(kind, value, key)
    return value


def _dataclass(kind: type, value: Any, key: str) -> Any:
    _expect(dict, value, key or "the file")
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    for problem, wrong in (("lacks key", set(names) - set(value)), ("has unknown key", set(value) - set(names))):
        if wrong:
            place = f"key {key!r} " if key else ""
            raise DecodingError(f"{place}{problem} {', '.join(repr(name) for name in sorted(wrong))}")
    entries = {name: _decode(hints[name], value[name], f"{key}.{name}".lstrip(".")) for name in names}
    try:
        return kind(**entries)
    except ValueError as error:
        raise DecodingError(f"key {key!r}: {error}") from error


def _tuple(arguments: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    _expect(list, value, key)
    kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
    if len(kinds) != len(value):
        raise DecodingError(f"key {key!r} must have {len(kinds)} entries, has {len(value)}")
    return tuple(
        _decode(kind, entry, f"{key}[{place}]") for place, (kind, entry) in enumerate(zip(kinds, value, strict=True))
    )


def _enum(kind: type[Enum], value: Any, key: str) -> Enum:
    try:
        return kind(value)
    except ValueError as error:
        raise DecodingError(f"key {key!r}: {value!r} is not one of {', '.join(m.value for m in kind)}") from error


def _expect(kind: type, value: Any, key: str) -> None:
    # In Python True is an int; in a manifest it is a mistake.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise DecodingError(f"key {key!r} must be {_WORDS[kind]}, is {value!r:.60}")


_WORDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "a boolean",
}
