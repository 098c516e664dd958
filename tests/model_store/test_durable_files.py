"""Durable writes, hashes and locks."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from polytask.model_store import durable_files
from polytask.model_store.durable_files import is_locked, locked, replace_text, sha256_of


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    """A file's hash is the sha256 of its content, for any size."""
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_replace_text_leaves_only_the_new_text(tmp_path: Path) -> None:
    """After a replacement the folder holds the file and nothing else."""
    replace_text(tmp_path / "file", "old")
    replace_text(tmp_path / "file", "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "new"


def test_an_interrupted_replacement_keeps_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a write fails half-way the old text stays, and the next replacement works."""
    replace_text(tmp_path / "file", "old")

    def fail(_path: Path) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(durable_files, "flush", fail)
        with pytest.raises(OSError, match="disk full"):
            replace_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "old"
    replace_text(tmp_path / "file", "newer")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "newer"


def test_a_lock_lasts_as_long_as_its_block(tmp_path: Path) -> None:
    """A folder is locked inside the block and free after it, also when the block fails."""

    def fail_while_locked() -> None:
        with locked(tmp_path):
            assert is_locked(tmp_path)
            raise KeyError

    assert not is_locked(tmp_path)
    with pytest.raises(KeyError):
        fail_while_locked()
    assert not is_locked(tmp_path)


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    """A killed process holds no lock any more."""
    code = "import sys, time; from pathlib import Path; from polytask.model_store.durable_files import locked\n"
    code += "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        assert is_locked(tmp_path)
        holder.kill()
    assert not is_locked(tmp_path)
