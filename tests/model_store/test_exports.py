"""Exports of a version: inside it or in the user's folder, whole, and of this version only."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from polytask.model.encoding import Input
from polytask.model_store.errors import ExportInvalid, FileCorrupt, StoreUnwritable
from polytask.model_store.exports import (
    EXPORT_MANIFEST,
    Candidate,
    Exports,
    export_folder,
    exported_file,
    read_exports,
    save_exports,
)
from polytask.model_store.load import verify
from polytask.model_store.manifest import MANIFEST, Golden
from polytask.model_store.save import save
from tests.model_store.support import stores
from tests.support import tiny


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version in a store."""
    return save(tmp_path / "store", "demo", stores.contents(tiny.network()))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sets a folder of the test as the user's data folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


def exports(version: Path, content: bytes = b"graph") -> Exports:
    """Exports of the version, with one file."""
    golden = Golden("mood", Input("The cat sat."), {"label": "good", "score": 0.5, "scores": {"good": 0.5}})
    candidates = (
        Candidate("onnxruntime", "int8", "int8.onnx", "onnxruntime 1", {"1": 2.0}, {"mood": -0.1}, None, (golden,)),
        Candidate("torch", "float32", None, "torch 2", {"1": 1.0}, {"mood": 0.0}, None, ()),
    )
    files = {"int8.onnx": hashlib.sha256(content).hexdigest()}
    return Exports("demo/1", stores.sha256(version / MANIFEST), files, candidates, "a processor", 1, 9, "today")


def saved(version: Path, source: Path, content: bytes = b"graph") -> Path:
    """Saves exports whose file holds `content`."""
    source.mkdir(exist_ok=True)
    (source / "int8.onnx").write_bytes(content)
    return save_exports(version, exports(version, content), {"int8.onnx": source / "int8.onnx"})


def test_what_is_saved_is_read(version: Path, tmp_path: Path) -> None:
    """Exports are read as they were saved, and the version beside them is still whole."""
    folder = saved(version, tmp_path / "work")
    assert folder == version / "exports"
    assert read_exports(version, tiny.tasks()) == (folder, exports(version))
    assert exported_file(folder, exports(version), "int8.onnx").read_bytes() == b"graph"
    verify(version)


def test_there_need_not_be_any(version: Path) -> None:
    """A version without exports is no error."""
    assert read_exports(version, tiny.tasks()) is None


def test_new_exports_take_the_place_of_old_ones(version: Path, tmp_path: Path) -> None:
    """New exports leave no file of earlier ones."""
    folder = saved(version, tmp_path / "work")
    (folder / "old.onnx").write_bytes(b"old")
    saved(version, tmp_path / "work", b"another graph")
    assert {path.name for path in folder.iterdir()} == {"int8.onnx", EXPORT_MANIFEST}
    assert exported_file(folder, exports(version, b"another graph"), "int8.onnx").read_bytes() == b"another graph"


def test_a_user_without_a_home_has_them_in_the_version_alone(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run under a user number that the system does not know; a version without exports has none then, too."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert read_exports(version, tiny.tasks()) is None
    assert export_folder(version) == version / "exports"


def test_a_version_that_cannot_be_written_to_has_them_elsewhere(
    version: Path, tmp_path: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exports of a read-only version are saved to and found in the user's data folder, under the manifest's hash."""
    # Permissions do not stop root.
    monkeypatch.setattr(os, "access", lambda path, _: version not in {path, *Path(path).parents})
    folder = saved(version, tmp_path / "work")
    assert folder == export_folder(version) == own_folder / "polytask" / "exports" / stores.sha256(version / MANIFEST)
    assert read_exports(version, tiny.tasks()) == (folder, exports(version))
    assert not (version / "exports").exists()


def test_exports_of_another_version_are_refused(version: Path, tmp_path: Path) -> None:
    """Exports that were copied to another version are refused."""
    other = save(tmp_path / "store", "demo", stores.contents(tiny.network(seed=1)))
    saved(version, tmp_path / "work").rename(other / "exports")
    with pytest.raises(ExportInvalid, match=r"another version.* run `polytask export` again"):
        read_exports(other, tiny.tasks())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"format": 2}, "has format 2, this release reads format 1"),
        ({"surprise": 1}, "has unknown key 'surprise'"),
        ({"threads": "two"}, "'threads' must be a whole number"),
    ],
)
def test_what_is_not_known_is_an_error(wrong: dict[str, object], message: str, version: Path, tmp_path: Path) -> None:
    """Another format, an unknown key and a wrong value are errors that name the path."""
    path = saved(version, tmp_path / "work") / EXPORT_MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(ExportInvalid, match=message) as raised:
        read_exports(version, tiny.tasks())
    assert raised.value.path == path


def test_a_file_that_is_not_the_one_exported_is_an_error(version: Path, tmp_path: Path) -> None:
    """A changed and a missing file are different errors."""
    folder = saved(version, tmp_path / "work")
    (folder / "int8.onnx").chmod(0o644)
    (folder / "int8.onnx").write_bytes(b"grapf")
    with pytest.raises(FileCorrupt, match="has sha256"):
        exported_file(folder, exports(version), "int8.onnx")
    (folder / "int8.onnx").unlink()
    with pytest.raises(FileCorrupt, match="is missing"):
        exported_file(folder, exports(version), "int8.onnx")


def test_a_place_that_cannot_be_written_to_is_said(version: Path, tmp_path: Path) -> None:
    """If a file is in the way of the folder, the error names the path."""
    (version / "exports").write_text("in the way")
    with pytest.raises(StoreUnwritable, match="exports: cannot be written"):
        saved(version, tmp_path / "work")
