"""Shared folder: it is there while its owner lives, and nothing of it afterwards."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from polytask.service.errors import StartupError
from polytask.service.processes.shared_folder import shared_folder


def test_only_abandoned_folders_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start removes what killed services have left, and neither the folder of a living one nor files of others."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with shared_folder() as living:
        abandoned, other = tmp_path / "polytask-serve-abcd", tmp_path / "polytask-other"
        for folder in (abandoned, other):
            (folder / "metrics").mkdir(parents=True)
            (folder / "metrics" / "engine-0.queue").touch()
        (tmp_path / "polytask-serve-link").symlink_to(other)
        with shared_folder() as new:
            assert {path.name for path in tmp_path.iterdir() if not path.is_symlink()} == {
                living.name,
                new.name,
                other.name,
            }
    assert list(other.rglob("*.queue"))
    assert not living.exists()
    assert not new.exists()


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_without_a_temporary_folder_the_start_is_refused(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the reason and the variable that helps."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / folder))
    with (
        pytest.raises(StartupError, match=r"no temporary folder to write to: .*; make one writable, or set TMPDIR"),
        shared_folder(),
    ):
        pass


def test_where_every_folder_is_read_only_the_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own search for a temporary folder ends in the same message."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc"])
    with pytest.raises(StartupError, match="no temporary folder to write to"), shared_folder():
        pass
