"""Saving: a version is whole or not there, holds the evaluated network, and has a number of its own."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from polytask.model.network import freeze_backbone, parameter_counts
from polytask.model.pretrained import rename_published
from polytask.model_store import durable_files
from polytask.model_store import save as save_module
from polytask.model_store.durable_files import locked
from polytask.model_store.errors import BaseMismatch, ManifestInvalid, NameInvalid, StoreUnwritable
from polytask.model_store.load import verify
from polytask.model_store.manifest import Base, Golden, read_manifest
from polytask.model_store.save import NewVersion, check_writable, save
from polytask.model_store.versions import POINTER, promote, versions
from tests.model_store.support import stores
from tests.support import tiny


def test_a_version_holds_what_was_given(version: Path) -> None:
    """Manifest and files have the given contents, and the time of saving is added."""
    given = stores.contents(tiny.network())
    manifest = read_manifest(version)
    assert (manifest.name, manifest.version) == ("demo", 1)
    assert (manifest.network, manifest.tasks) == (tiny.config(), tiny.tasks())
    assert (manifest.metrics, manifest.baselines, manifest.goldens) == (given.metrics, given.baselines, given.goldens)
    assert {**manifest.provenance, **given.provenance} == manifest.provenance
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest.provenance["created"])
    assert (version / "card.md").read_text(encoding="utf-8") == given.card
    assert (version / "tokenizer.json").read_text(encoding="utf-8") == given.tokenizer_json


def test_the_manifest_hashes_every_other_file(version: Path) -> None:
    """Each file but the manifest and its hash is listed with its sha256, and all are read-only."""
    manifest = read_manifest(version)
    others = {file.name: stores.sha256(file) for file in version.iterdir() if not file.name.startswith("manifest")}
    assert manifest.files == others
    assert not any(file.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) for file in version.iterdir())


def test_a_version_is_as_readable_as_its_store(version: Path) -> None:
    """A version has the read permissions of its store, not those of a private temporary folder."""
    assert version.stat().st_mode == version.parent.stat().st_mode


def test_numbers_rise_from_one(store: Path) -> None:
    """The next version is one more than the highest, also with gaps; each name has its own numbers."""
    contents = stores.contents(tiny.network())
    assert [save(store, "demo", contents).name for _ in range(3)] == ["1", "2", "3"]
    shutil.rmtree(store / "demo" / "1")
    assert save(store, "demo", contents).name == "4"
    assert save(store, "other", contents) == store / "other" / "1"


@pytest.mark.parametrize("pointer", [None, "broken"])
def test_a_promoted_number_is_not_given_again(store: Path, pointer: str | None) -> None:
    """The number of a promoted version that was deleted stays taken; a broken pointer does not stop a save."""
    contents = stores.contents(tiny.network())
    save(store, "demo", contents)
    promote(store, "demo", int(save(store, "demo", contents).name))
    shutil.rmtree(store / "demo" / "2")
    if pointer is not None:
        (store / "demo" / POINTER).write_text(pointer, encoding="utf-8")
    assert save(store, "demo", contents).name == ("3" if pointer is None else "2")


@pytest.mark.parametrize("name", ["", "..", "../demo", "a/b", ".hidden", "UPPER", "demo\n", "x" * 64])
def test_a_bad_name_creates_nothing(store: Path, name: str) -> None:
    """A name that could leave the store is refused before anything is written."""
    with pytest.raises(NameInvalid):
        save(store, name, stores.contents(tiny.network()))
    assert not store.exists()


def test_a_delta_stores_what_differs_from_the_base(delta: Path) -> None:
    """Of the backbone only the trained tensor is stored, in the given precision, beside all other parameters."""
    stored = load_file(delta / "weights.safetensors")
    network = stores.fine_tuned()
    backbone = rename_published(stores.published(network))
    assert stored.keys() == (network.state_dict().keys() - backbone.keys()) | {stores.TRAINED}
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_a_delta_compares_bits(store: Path, base: Base) -> None:
    """A minus zero in place of the base's zero is stored as a difference."""
    network = tiny.network()
    with torch.no_grad():
        network.encoder.embeddings.norm.bias.mul_(-1.0)
    assert torch.equal(network.encoder.embeddings.norm.bias, tiny.network().encoder.embeddings.norm.bias)
    stored = load_file(save(store, "demo", stores.contents(network, base)) / "weights.safetensors")
    assert "encoder.embeddings.norm.bias" in stored


def test_a_precision_that_would_change_values_is_refused(store: Path, base: Base) -> None:
    """A network that was not rounded to the precision is refused, and nothing is saved."""
    with pytest.raises(ValueError, match=r"storing .* in torch.float16 would change its values"):
        save(store, "demo", stores.contents(tiny.network(), base, torch.float16))
    assert versions(store, "demo") == []


def test_a_wrong_base_saves_nothing(store: Path, base: Base) -> None:
    """A delta over a base with another hash is refused, and nothing is saved."""
    with pytest.raises(BaseMismatch):
        save(store, "demo", stores.contents(tiny.network(), replace(base, sha256="0" * 64)))
    assert list((store / "demo").iterdir()) == []


def _fail(*_: Any, **__: Any) -> Any:
    raise OSError("no space left on device")


def _fail_at(step: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls = iter(range(1, 1000))
    return lambda *arguments: _fail() if next(calls) == step else function(*arguments)


_STEPS: list[tuple[Any, str, Callable[..., Any]]] = [
    (save_module, "save_file", _fail),
    (save_module, "sha256_of", _fail),
    (save_module, "to_json", _fail),
    (Path, "chmod", _fail),
    (Path, "rename", _fail),
    # Weights, tokenizer, card, manifest, its hash, the folder.
    *((save_module, "flush", _fail_at(step, durable_files.flush)) for step in range(1, 7)),
]


@pytest.mark.parametrize(("module", "function", "failing"), _STEPS)
def test_a_failing_step_leaves_no_version(
    store: Path, version: Path, monkeypatch: pytest.MonkeyPatch, module: Any, function: str, failing: Callable[..., Any]
) -> None:
    """If any step fails, earlier versions stay, nothing is left over, and the next save gets the next number."""
    contents = stores.contents(tiny.network())
    with monkeypatch.context() as patch:
        patch.setattr(module, function, failing)
        with pytest.raises(StoreUnwritable, match="no space left"):
            save(store, "demo", contents)
    assert list((store / "demo").iterdir()) == [version]
    verify(version)
    assert save(store, "demo", contents).name == "2"


@pytest.mark.parametrize("folder", ["file", "file/below", "folder/demo-is-a-file"])
def test_a_store_that_cannot_be_written_is_found_beforehand(tmp_path: Path, folder: str) -> None:
    """If no version can be saved, `check_writable` raises the error of `save`, with path and reason."""
    (tmp_path / "folder" / "demo-is-a-file").mkdir(parents=True)
    for file in ("file", "folder/demo-is-a-file/demo"):
        (tmp_path / file).write_text("no folder", encoding="utf-8")
    for attempt in (check_writable, partial(save, new_version=stores.contents(tiny.network()))):
        with pytest.raises(StoreUnwritable, match=rf"\A{tmp_path}/{folder}/demo: cannot be written \((Not|File)"):
            attempt(tmp_path / folder, "demo")


def test_checking_a_store_leaves_nothing(store: Path, version: Path, tmp_path: Path) -> None:
    """`check_writable` leaves a store unchanged and does not make a missing one."""
    check_writable(store, "demo")
    check_writable(store, "other")
    check_writable(tmp_path / "new" / "store", "demo")
    assert list((store / "demo").iterdir()) == [version]
    assert not (store / "other").exists()
    assert not (tmp_path / "new").exists()
    with pytest.raises(NameInvalid):
        check_writable(store, "../demo")


def test_the_manifest_says_how_much_was_trained(store: Path) -> None:
    """The manifest has the parameter counts of the saved network, in which frozen ones are not trainable."""
    network = tiny.network()
    freeze_backbone(network, 1)
    counts = read_manifest(save(store, "demo", stores.contents(network))).parameters
    assert counts == parameter_counts(network)
    assert counts is not None
    assert 0 < counts.trainable < counts.total


def test_a_manifest_that_cannot_be_read_back_saves_nothing(store: Path) -> None:
    """A golden example of an unknown task is refused before there is a version."""
    contents = replace(stores.contents(tiny.network()), goldens=(Golden("poetry", tiny.inputs()["mood"], {}),))
    with pytest.raises(ManifestInvalid, match="poetry"):
        save(store, "demo", contents)
    assert list((store / "demo").iterdir()) == []


def test_a_killed_save_leaves_no_version(store: Path, version: Path) -> None:
    """A save killed before any fsync or the rename leaves earlier versions only, and the next save cleans up."""
    script = Path(__file__).parent / "support" / "interrupted_saves.py"
    root = Path(__file__).parents[2]
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", script, store],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    *killed, survivor = (line.split()[1:] for line in finished.stdout.splitlines())
    # Six waits and the rename; after it the version is complete, whatever happens.
    assert killed[:7] == [["True", "1"]] * 7
    assert all(line == ["True", *map(str, range(1, number + 3))] for number, line in enumerate(killed[7:]))
    assert survivor[0] == "False"
    for number in versions(store, "demo"):
        verify(store / "demo" / str(number))
    assert verify(version).version == 1
    assert [entry.name for entry in (store / "demo").iterdir() if entry.name.startswith(".")] == []


def test_a_save_in_progress_is_not_swept_up(store: Path, version: Path) -> None:
    """A temporary folder with a live owner stays; the next save after its owner's death removes it."""
    temporary = version.parent / ".saving-0123"
    temporary.mkdir()
    with locked(temporary):
        save(store, "demo", stores.contents(tiny.network()))
        assert temporary.is_dir()
    save(store, "demo", stores.contents(tiny.network()))
    assert not temporary.exists()


def test_concurrent_saves_get_numbers_of_their_own(store: Path) -> None:
    """Concurrent saves all succeed, each with its own number and weights."""
    networks = [tiny.network(seed) for seed in range(6)]

    def save_one(contents: NewVersion) -> Path:
        return save(store, "demo", contents)

    with ThreadPoolExecutor(max_workers=len(networks)) as pool:
        folders = list(pool.map(save_one, map(stores.contents, networks)))
    assert versions(store, "demo") == list(range(1, 7))
    assert len(set(folders)) == len(networks)
    for folder, network in zip(folders, networks, strict=True):
        assert verify(folder).version == int(folder.name)
        stored = load_file(folder / "weights.safetensors")
        assert all(torch.equal(stored[name], tensor) for name, tensor in network.state_dict().items())
