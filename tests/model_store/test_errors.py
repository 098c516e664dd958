"""Errors of a store."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

from polytask.model_store import errors
from polytask.model_store.errors import FileCorrupt, StoreError


def test_message_says_which_path_what_is_wrong_and_what_to_do() -> None:
    """An error's message has path, problem and remedy, in that order."""
    error = FileCorrupt(Path("store/demo/1/card.md"), "is missing", "restore it")
    assert str(error) == "store/demo/1/card.md: is missing; restore it"


def test_every_error_is_a_store_error() -> None:
    """Catching StoreError catches everything that the store raises on purpose."""
    classes = [entry for _, entry in inspect.getmembers(errors, inspect.isclass) if issubclass(entry, Exception)]
    assert len(classes) > 10
    assert all(issubclass(entry, StoreError) for entry in classes)


def test_an_error_survives_a_copy() -> None:
    """An error can be copied or sent to another process, as its arguments are those of its constructor."""
    error = copy.copy(FileCorrupt("a", "b", "c"))
    assert str(error) == "a: b; c"
