"""Strict decoding of JSON to dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pytest

from polytask.model_store.decoding import DecodingError, decode


class Colour(StrEnum):
    """An enumeration to decode."""

    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Inner:
    """A dataclass inside another; its number must be positive."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"number must be positive, got {self.number}")


@dataclass(frozen=True, slots=True)
class Outer:
    """One field for every type that a manifest has."""

    inner: tuple[Inner, ...]
    pair: tuple[float, float] | None
    nested: dict[str, dict[str, float]]
    colour: Colour
    flag: bool
    anything: Any
    text: str = "default"


def valid() -> dict[str, Any]:
    """The JSON of an Outer."""
    return {
        "inner": [{"number": 1}, {"number": 2}],
        "pair": [0, 1.5],
        "nested": {"a": {"b": 1.0}},
        "colour": "red",
        "flag": True,
        "anything": [1, {"x": None}],
        "text": "given",
    }


def test_every_type_is_decoded() -> None:
    """Lists become tuples, names become enum members, whole numbers become floats where a float is asked for."""
    decoded = decode(Outer, valid())
    assert decoded == Outer(
        inner=(Inner(1), Inner(2)),
        pair=(0.0, 1.5),
        nested={"a": {"b": 1.0}},
        colour=Colour.RED,
        flag=True,
        anything=[1, {"x": None}],
        text="given",
    )
    assert isinstance(decoded.pair[0] if decoded.pair else None, float)


def test_none_is_allowed_only_where_the_type_says_so() -> None:
    """An optional field takes null, another does not."""
    assert decode(Outer, {**valid(), "pair": None}).pair is None
    with pytest.raises(DecodingError, match="'flag' must be a boolean"):
        decode(Outer, {**valid(), "flag": None})


@pytest.mark.parametrize("key", list(valid()))
def test_a_missing_key_is_named(key: str) -> None:
    """A missing key is an error, also if its field has a default."""
    fields = valid()
    del fields[key]
    with pytest.raises(DecodingError, match=f"lacks key '{key}'"):
        decode(Outer, fields)


def test_an_unknown_key_is_named_with_its_place() -> None:
    """A key without a field is an error that names it, at any depth."""
    with pytest.raises(DecodingError, match="has unknown key 'colr'"):
        decode(Outer, {**valid(), "colr": "red"})
    with pytest.raises(DecodingError, match=r"key 'inner\[1\]' has unknown key 'extra'"):
        decode(Outer, {**valid(), "inner": [{"number": 1}, {"number": 2, "extra": 0}]})


def test_all_missing_and_all_unknown_keys_of_an_object_are_named() -> None:
    """One error names every key that an object lacks, or every one that it has too many."""
    with pytest.raises(DecodingError, match=r"^lacks key 'flag', 'pair', 'text'$"):
        decode(Outer, {key: value for key, value in valid().items() if key not in {"text", "flag", "pair"}})
    with pytest.raises(DecodingError, match=r"^key 'inner\[0\]' has unknown key 'a', 'b'$"):
        decode(Outer, {**valid(), "inner": [{"number": 1, "b": 0, "a": 0}, {"c": 0, "number": 1}]})


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("inner", {"number": 1}, "'inner' must be a list"),
        ("inner", [1], r"'inner\[0\]' must be an object"),
        ("inner", [{"number": "1"}], r"'inner\[0\].number' must be a whole number"),
        ("inner", [{"number": 1.0}], r"'inner\[0\].number' must be a whole number"),
        ("inner", [{"number": True}], r"'inner\[0\].number' must be a whole number"),
        ("pair", [1.0], r"'pair\[1\]' is missing"),
        ("pair", [1.0, 2.0, 3.0], "'pair': Tuple should have at most 2 items"),
        ("text", "\ud800", "the file: Invalid JSON"),
        ("pair", [1.0, False], r"'pair\[1\]' must be a number"),
        ("nested", {"a": {"b": "x"}}, "'nested.a.b' must be a number"),
        ("nested", {"a": 1}, "'nested.a' must be an object"),
        ("colour", "green", "'colour': 'green' is not one of 'red' or 'blue'"),
        ("flag", 1, "'flag' must be a boolean"),
        ("text", 1, "'text' must be a string"),
        ("inner", [{"number": 0}], r"'inner\[0\]': number must be positive"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(key: str, value: Any, named: str) -> None:
    """A value of another type, or one that its class refuses, is an error that names its key."""
    with pytest.raises(DecodingError, match=named):
        decode(Outer, {**valid(), key: value})
