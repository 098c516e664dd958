"""What can be wrong with a store: each error says which path, what is wrong, and what to do."""

from __future__ import annotations

from pathlib import Path

RESTORE = "restore the version from where it came from, or use another one"
"""What to do about a version that is damaged."""


class StoreError(Exception):
    """Something on disk, or a reference to it, is not as it must be. Start-up stops with this message."""

    def __init__(self, path: Path | str, problem: str, remedy: str) -> None:
        super().__init__(path, problem, remedy)
        self.path = path
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; {self.remedy}"


class StoreMissing(StoreError):
    """There is no store at this path."""


class StoreUnwritable(StoreError):
    """Nothing can be written there: no permission, no space, or no folder."""


class NameInvalid(StoreError):
    """Not a name of a checkpoint or a reference to a version."""


class VersionNotFound(StoreError):
    """The store has no such checkpoint or version, or none was promoted."""


class PointerCorrupt(StoreError):
    """The file that says which version is current cannot be read."""


class NothingToRollBack(StoreError):
    """No other version was current before."""


class NotAVersion(StoreError):
    """A path that is not a folder with a manifest."""


class FormatTooNew(StoreError):
    """Written by a newer release than this one."""


class ManifestInvalid(StoreError):
    """The manifest lacks a key, has an unknown one, or holds a wrong value; the message names the key."""


class FileCorrupt(StoreError):
    """A file is missing, or is not the one that was saved."""


class TensorMismatch(StoreError):
    """The tensors in the file are not those of the network; the message names them."""


class BaseMissing(StoreError):
    """The published backbone is not on this machine and cannot be fetched."""


class BaseMismatch(StoreError):
    """The published backbone found is not the one that the version was made from."""


class ExportInvalid(StoreError):
    """The exports of a version cannot be read, or are of another version."""
