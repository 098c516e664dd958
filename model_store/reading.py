"""Reading of a store: regular files only, up to a size. Whatever prevents it is a StoreError that names the path."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from polytask.model_store.errors import RESTORE, FileCorrupt, Unreadable

MIB = 2**20


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises an OSError of the block as an Unreadable that names `path`."""
    try:
        yield
    except OSError as error:
        remedy = "let this user read it, and every folder above it" if isinstance(error, PermissionError) else RESTORE
        raise Unreadable(path, f"cannot be read ({error.strerror or error})", remedy) from error


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """The regular file at `path`, open. Raises FileCorrupt if it is missing, or Unreadable."""
    with reading(path):
        try:
            # Opening a pipe would wait for its other end.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            problem = "is a link to a file that is missing" if path.is_symlink() else "is missing"
            raise FileCorrupt(path, problem, RESTORE) from error
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Unreadable(path, "is not a file", "put the file there that has this name in a saved version")
            yield file


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """The content of a file. Raises FileCorrupt if it is missing or larger than `most_bytes`, or Unreadable."""
    with opened(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise FileCorrupt(path, f"is larger than the {most_bytes / MIB:.3g} MiB that such a file may have", RESTORE)
    return content


def check_hash(path: Path, expected: str) -> None:
    """Raises FileCorrupt if the file is missing or has another sha256, or Unreadable."""
    with opened(path) as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    _compare(path, actual, expected)


def read_hashed(path: Path, expected: str, most_bytes: int) -> str:
    """The text of a file whose bytes have the sha256 `expected`. Raises FileCorrupt or Unreadable."""
    content = read_bytes(path, most_bytes)
    _compare(path, hashlib.sha256(content).hexdigest(), expected)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileCorrupt(path, f"is not text in UTF-8 ({error})", RESTORE) from error


def _compare(path: Path, actual: str, expected: str) -> None:
    if actual != expected:
        raise FileCorrupt(path, f"has sha256 {actual}, but {expected} was recorded", RESTORE)
