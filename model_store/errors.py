"""Errors of a store: each one names the path, the problem and the remedy."""

from __future__ import annotations

from pathlib import Path

RESTORE = "restore the version from where it came from, or use another one"
"""Remedy for a damaged version."""


class StoreError(Exception):
    """A path or a reference to it is wrong. A process that starts stops with this message."""

    def __init__(self, path: Path | str, problem: str, remedy: str) -> None:
        super().__init__(path, problem, remedy)
        self.path = path
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; {self.remedy}"


class StoreMissing(StoreError):
    """No store at this path."""


class StoreUnwritable(StoreError):
    """The path cannot be written to: no permission, no space, or no folder."""


class NameInvalid(StoreError):
    """Not a valid checkpoint name or version reference."""


class Unreadable(StoreError):
    """A file or folder cannot be read: no permission, a loop of links, or a folder in place of a file."""


class NameMismatch(StoreError):
    """The folder of a version has another name or number than its manifest."""


class VersionNotFound(StoreError):
    """The store does not have this checkpoint or version, or no version was promoted."""


class PointerCorrupt(StoreError):
    """The file that says which version is current cannot be read."""


class NothingToRollBack(StoreError):
    """No other version was current before this one."""


class NotAVersion(StoreError):
    """The path is not a folder with a manifest."""


class FormatTooNew(StoreError):
    """The version was written by a newer release than this one."""


class ManifestInvalid(StoreError):
    """The manifest lacks a key, has an unknown one, or holds a wrong value; the message names the key."""


class FileCorrupt(StoreError):
    """A file is missing, was changed after saving, or cannot be what its name says."""


class TensorMismatch(StoreError):
    """The tensors of the file do not match the network, or are not finite; the message names them."""


class TokenizerMismatch(StoreError):
    """The tokenizer lacks a special token, or has ids that the network has no embedding for."""


class BaseMissing(StoreError):
    """The published backbone is not on this machine and cannot be fetched."""


class BaseMismatch(StoreError):
    """The published backbone on this machine is not the one that the version was made from."""


class ExportInvalid(StoreError):
    """The exports of a version cannot be read or run, or belong to another version."""
