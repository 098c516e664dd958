"""Shared folder: where the processes of a service have sockets, metrics and limits in common. None is left behind.

Who is killed cannot remove its folder. So the supervisor holds the lock of its folder, which the kernel releases when it
dies in any way, and each start removes the folders that nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from polytask.service.errors import StartupError

_PREFIX = "polytask-serve-"


@contextlib.contextmanager
def shared_folder() -> Iterator[Path]:
    """A new folder that only this user can read, until the end of the block. Raises StartupError."""
    try:
        _remove_abandoned(Path(tempfile.gettempdir()))
        folder, lock = _create()
    except OSError as error:
        raise StartupError(
            f"there is no temporary folder to write to: {error}; make one writable, or set TMPDIR to one that is"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _create() -> tuple[Path, int]:
    """A folder, and a descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = _open(folder)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another start may have taken it for abandoned before it was locked.
        if folder.exists():
            return folder, lock
        os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # of another user, or removed in the meantime
            lock = _open(folder)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
