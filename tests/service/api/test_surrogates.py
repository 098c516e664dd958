"""Lone surrogates: how an error about one is told from others."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from polytask.service.api.surrogates import about_surrogate


class _Explained:
    """A validation error that counts how many errors have been explained."""

    def __init__(self, error: ValidationError) -> None:
        self._error = error
        self.num_explained = 0

    def error_count(self) -> int:
        """As pydantic's."""
        return self._error.error_count()

    def errors(self, **options: Any) -> list[Any]:
        """As pydantic's."""
        self.num_explained += self._error.error_count()
        return self._error.errors(**options)


def error_of(body: bytes) -> _Explained:
    """The error of a body that is no list of numbers."""
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(list[int]).validate_json(body)
    return _Explained(refused.value)


def test_an_error_about_a_surrogate_is_told_from_others() -> None:
    """A body with half of a pair is one, and a body that is no JSON, or has other values, is none."""
    assert about_surrogate(error_of(rb'["\ud83d"]'))  # type: ignore[arg-type]
    for body in (b'["a"]', b'["a", "b"]', b"[1", b'"'):
        assert not about_surrogate(error_of(body))  # type: ignore[arg-type]


def test_many_errors_are_not_explained() -> None:
    """What a client can have many of is not explained to find out: it would hold up the whole process for a second."""
    error = error_of(b"[" + b",".join([b'"a"'] * 5000) + b"]")
    assert not about_surrogate(error)  # type: ignore[arg-type]
    assert error.num_explained <= 1
