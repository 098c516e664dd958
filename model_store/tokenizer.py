"""Tokenizer of a version, read without torch: frontends need only it and the manifest."""

from __future__ import annotations

from pathlib import Path

import tokenizers

from polytask.model_store.durable_files import sha256_of
from polytask.model_store.errors import RESTORE, FileCorrupt
from polytask.model_store.manifest import TOKENIZER, Manifest


def load_tokenizer(folder: Path, manifest: Manifest) -> tokenizers.Tokenizer:
    """The tokenizer of the version in `folder`. Raises FileCorrupt."""
    path = folder / TOKENIZER
    check_hash(path, manifest.files[TOKENIZER])
    try:
        return tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises nothing more precise
        raise FileCorrupt(path, f"is not a tokenizer ({error})", RESTORE) from error


def check_hash(path: Path, expected: str) -> None:
    """Raises FileCorrupt if the file is missing or has another sha256."""
    if not path.is_file():
        raise FileCorrupt(path, "is missing", RESTORE)
    actual = sha256_of(path)
    if actual != expected:
        raise FileCorrupt(path, f"has sha256 {actual}, the manifest says {expected}", RESTORE)
