"""Reading: whatever is not a readable file of the expected size is a StoreError that names the path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from polytask.model_store.errors import FileCorrupt, StoreError, Unreadable
from polytask.model_store.reading import check_hash, read_bytes, read_hashed, reading
from tests.model_store.support import stores


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    """A file of as many bytes as allowed is read, and one byte more is refused."""
    path = tmp_path / "file"
    path.write_bytes(b"1234")
    assert read_bytes(path, 4) == b"1234"
    with pytest.raises(FileCorrupt, match="is larger than"):
        read_bytes(path, 3)


def test_text_has_its_hash_and_is_utf_8(tmp_path: Path) -> None:
    """Text with its hash is read; other bytes, or bytes that are not UTF-8, are corrupt."""
    path = tmp_path / "file"
    path.write_text("ça", encoding="utf-8")
    assert read_hashed(path, stores.sha256(path), 100) == "ça"
    check_hash(path, stores.sha256(path))
    with pytest.raises(FileCorrupt, match="has sha256"):
        read_hashed(path, "0" * 64, 100)
    path.write_bytes(b"\xff")
    with pytest.raises(FileCorrupt, match="UTF-8"):
        read_hashed(path, stores.sha256(path), 100)


@pytest.mark.parametrize(
    ("make", "error", "problem"),
    [
        (lambda _: None, FileCorrupt, "is missing"),
        (lambda path: path.symlink_to("nowhere"), FileCorrupt, "is a link to a file that is missing"),
        (lambda path: path.symlink_to(path.name), Unreadable, "cannot be read"),
        (Path.mkdir, Unreadable, "cannot be read .Is a directory"),
        (os.mkfifo, Unreadable, "is not a file"),
    ],
    ids=["missing", "broken link", "loop of links", "folder", "pipe"],
)
def test_what_is_not_a_file_is_named(tmp_path: Path, make: object, error: type[StoreError], problem: str) -> None:
    """A missing file, a broken link, a loop, a folder and a pipe are errors that name the path, and nothing waits."""
    path = tmp_path / "file"
    assert callable(make)
    make(path)
    with pytest.raises(error, match=f"{path}: {problem}"):
        read_bytes(path, 100)
    with pytest.raises(error, match=f"{path}: {problem}"):
        check_hash(path, "")


def test_a_missing_permission_has_its_own_remedy(tmp_path: Path) -> None:
    """The remedy of a missing permission is to give it."""
    with pytest.raises(Unreadable, match=r"Permission denied.*let this user read it"), reading(tmp_path):
        raise PermissionError(13, "Permission denied")
