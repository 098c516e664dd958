"""Durable files: writes that survive a crash, hashes, and locks that the kernel releases when their owner dies."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polytask.model_store.errors import StoreUnwritable


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Waits until a file's bytes or a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Replaces the content of `path` by `text` and keeps its mode. A reader sees the old or the new text, also after a crash.

    For one writer at a time: hold the lock of the folder.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    if path.exists():
        shutil.copymode(path, temporary)
    flush(temporary)
    temporary.rename(path)
    flush(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises an OSError of the block as a StoreUnwritable that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        remedy = "give a folder that can be written to, with room in it (--store or POLYTASK_STORE)"
        raise StoreUnwritable(path, f"cannot be written ({reason})", remedy) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder during the block, after waiting for it. The lock also ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a live process holds the lock of a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
