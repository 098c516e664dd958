"""Versions in a store: list, resolve, promote, roll back.

`STORE/NAME/1`, `STORE/NAME/2`, ... are versions; `STORE/NAME/current.json` names the current one and those before it.
Names that start with a dot are left by a save or a write that was cut off.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from polytask.model.tasks import NAME
from polytask.model_store.durable_files import locked, replace_text, writing
from polytask.model_store.errors import (
    FileCorrupt,
    NameInvalid,
    NothingToRollBack,
    PointerCorrupt,
    StoreMissing,
    Unreadable,
    VersionNotFound,
)
from polytask.model_store.reading import MIB, read_bytes, reading

POINTER = "current.json"
_MOST_POINTER_BYTES = MIB

_VERSION = re.compile(r"[1-9][0-9]{0,8}")


def names(store: Path) -> list[str]:
    """The names of the checkpoints that have a version, or cannot be read, in order. Raises StoreMissing or Unreadable."""
    with reading(store):
        if not store.is_dir():
            remedy = "give the folder of a store (--store or POLYTASK_STORE)"
            raise StoreMissing(store, "there is no such folder", remedy)
        entries = sorted(entry.name for entry in store.iterdir())
    return [entry for entry in entries if NAME.fullmatch(entry) and _may_have_versions(store, entry)]


def versions(store: Path, name: str) -> list[int]:
    """The versions of a checkpoint, in order; an empty list for an unknown checkpoint. Raises NameInvalid or Unreadable.

    A broken link counts, so that it is reported and not skipped.
    """
    folder = store / check_name(name)
    with reading(folder):
        entries = [entry for entry in folder.iterdir() if _VERSION.fullmatch(entry.name)] if folder.is_dir() else []
        return sorted(int(entry.name) for entry in entries if entry.is_symlink() or entry.is_dir())


def current(store: Path, name: str) -> int | None:
    """The current version, or None if none was promoted. Raises NameInvalid, PointerCorrupt or Unreadable."""
    promoted = promotions(store, name)
    return promoted[-1] if promoted else None


def resolve(store: Path, reference: str) -> Path:
    """The folder of `NAME` (its current version) or `NAME/VERSION`.

    Raises NameInvalid, VersionNotFound, PointerCorrupt, Unreadable or StoreMissing.
    """
    name, version = parse_reference(reference)
    _require_name(store, name)
    if version is None:
        version = current(store, name)
        if version is None:
            available = ", ".join(f"{name}/{number}" for number in versions(store, name))
            raise VersionNotFound(store / name, "no version was promoted", f"promote one, or name one: {available}")
    _require(store, name, version)
    return store / name / str(version)


def promote(store: Path, name: str, version: int) -> None:
    """Makes `version` the current one.

    Raises NameInvalid, VersionNotFound, PointerCorrupt or StoreUnwritable.
    """
    _require(store, name, version)
    with locked(store / name):
        promoted = promotions(store, name)
        if promoted[-1:] != [version]:
            _write_pointer(store / name, [*promoted, version])


def rollback(store: Path, name: str) -> int:
    """Makes the version that was current before the current one again, and returns its number.

    Raises NameInvalid, VersionNotFound, PointerCorrupt, NothingToRollBack or StoreUnwritable.
    """
    _require_name(store, name)
    with locked(store / name):
        promoted = promotions(store, name)[:-1]
        if not promoted:
            raise NothingToRollBack(
                store / name, "no other version was current before", "promote the one that you want"
            )
        _require(store, name, promoted[-1])
        _write_pointer(store / name, promoted)
        return promoted[-1]


def promotions(store: Path, name: str) -> list[int]:
    """The versions that were promoted and not rolled back, current one last.

    Raises NameInvalid, PointerCorrupt or Unreadable.
    """
    path = store / check_name(name) / POINTER
    with reading(path):
        if not (path.exists() or path.is_symlink()):
            return []
    promoted: list[Any]
    try:
        pointer = json.loads(read_bytes(path, _MOST_POINTER_BYTES))
        promoted = [*pointer["before"], pointer["current"]]
    except (FileCorrupt, ValueError, TypeError, KeyError, RecursionError) as error:
        promoted = [error]
    if not all(type(version) is int for version in promoted):
        raise PointerCorrupt(path, "does not say which version is current", "delete it and promote a version")
    return promoted


def check_name(name: str) -> str:
    """Returns `name`. Raises NameInvalid if it cannot name a checkpoint."""
    if not NAME.fullmatch(name):
        raise NameInvalid(
            name, "is not a checkpoint's name", "use 1 to 63 of a-z, 0-9, - and _, a letter or digit first"
        )
    return name


def parse_reference(reference: str) -> tuple[str, int | None]:
    """The name and the version in `NAME` or `NAME/VERSION`; the version may be None. Raises NameInvalid."""
    name, slash, version = reference.partition("/")
    if slash and not _VERSION.fullmatch(version):
        raise NameInvalid(reference, f"{version!r} is not a version", "write NAME or NAME/VERSION, such as demo/1")
    return check_name(name), int(version) if slash else None


def _may_have_versions(store: Path, name: str) -> bool:
    try:
        return bool(versions(store, name))
    except Unreadable:
        return True


def _write_pointer(folder: Path, promoted: list[int]) -> None:
    with writing(folder):
        replace_text(folder / POINTER, json.dumps({"current": promoted[-1], "before": promoted[:-1]}) + "\n")


def _require_name(store: Path, name: str) -> None:
    if not versions(store, name):
        available = ", ".join(names(store)) or "none"
        raise VersionNotFound(store / name, "there is no such checkpoint", f"the store has: {available}")


def _require(store: Path, name: str, version: int) -> None:
    _require_name(store, name)
    if version not in versions(store, name):
        available = ", ".join(str(number) for number in versions(store, name))
        raise VersionNotFound(store / name / str(version), "there is no such version", f"{name} has: {available}")
