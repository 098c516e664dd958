"""Killed training: the store stays valid whenever a run is killed, and the next run publishes."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from rich.console import Console

from polytask.model_store.load import verify
from polytask.model_store.versions import versions
from polytask.training import pipeline
from polytask.training.pipeline import run_recipe
from tests.training.support import toy
from tests.training.support.processes import CONTEXT


def _run(folder: Path, examples: int, log: Path, moment: tuple[str, str] | None) -> None:
    """Runs in its own process, which dies at the given moment."""
    torch.set_num_threads(1)
    if moment is not None:
        sys.addaudithook(_killer(*moment))
    with log.open("w", buffering=1, encoding="utf-8") as shown:
        console = Console(file=shown, width=120)
        run_recipe(_recipe(folder, examples), folder / "data", folder / "store", console, folder / f"run-{examples}")


def _killer(event: str, path: str) -> Callable[[str, tuple[object, ...]], None]:
    """Kills the process just before `event` on a path that ends with the pattern."""
    pattern = re.compile(rf"/store{path}\Z")

    def hook(happening: str, arguments: tuple[object, ...]) -> None:
        if happening == event and any(pattern.search(str(argument)) for argument in arguments):
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def _recipe(folder: Path, examples: int) -> Path:
    path = folder / f"{examples}.toml"
    fields = toy.fields(folder / "backbone", length={"examples": examples, "evaluate_every": 16, "tensorboard": False})
    path.write_text(toy.to_toml(fields), encoding="utf-8")
    return path


def _start(folder: Path, examples: int, moment: tuple[str, str] | None = None) -> BaseProcess:
    process = CONTEXT.Process(target=_run, args=(folder, examples, folder / "log", moment))
    process.start()
    return process


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the data and backbone of a toy run. It has no store yet. Reports are turned off."""
    monkeypatch.setattr(pipeline, "write_report", lambda path: path)
    toy.write_backbone(tmp_path / "backbone")
    toy.write_data(tmp_path / "data", train=12, validation=4)
    return tmp_path


def _verified(store: Path) -> list[int]:
    """The versions in the store, each of which verifies. All other entries are hidden."""
    found = versions(store, "toy")
    for version in found:
        verify(store / "toy" / str(version))
    if (store / "toy").is_dir():
        others = {entry.name for entry in (store / "toy").iterdir()} - {str(version) for version in found}
        assert all(name.startswith(".") for name in others)
    return found


def _assert_the_next_run_publishes(folder: Path, expected: list[int], *, resume: bool = True) -> None:
    store = folder / "store"
    console = Console(file=io.StringIO())
    version = run_recipe(_recipe(folder, 16), folder / "data", store, console, folder / "run-16", resume=resume)
    assert version == store / "toy" / str(expected[-1])
    assert _verified(store) == expected
    assert sorted(entry.name for entry in (store / "toy").iterdir()) == [str(number) for number in expected]


# A moment: what is about to happen in the store, to which path, and the versions that are there then.
_TEMPORARY = r"/toy/\.saving-\w+"
_MOMENTS = {
    "before anything is written": ("os.mkdir", "", []),
    "before its folder is there": ("os.mkdir", _TEMPORARY, []),
    "before its folder is locked": ("open", _TEMPORARY, []),
    "with the weights alone": ("open", f"{_TEMPORARY}/tokenizer.json", []),
    "with the manifest not sealed": ("open", f"{_TEMPORARY}/manifest.sha256", []),
    "before it gets its name": ("os.rename", "/toy/1", []),
    "after it got its name": ("open", "", [1]),
}


@pytest.mark.parametrize(("event", "path", "left"), _MOMENTS.values(), ids=_MOMENTS)
def test_killed_while_publishing(folder: Path, event: str, path: str, left: list[int]) -> None:
    """After a kill at any step of saving, a version exists completely or not at all; the resumed run cleans up and has published once."""
    process = _start(folder, 16, (event, path))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert _verified(folder / "store") == left
    _assert_the_next_run_publishes(folder, [1])


def test_killed_while_training(folder: Path) -> None:
    """A run that is killed from outside during training has not changed the store."""
    process = _start(folder, 10**9)
    log = folder / "log"
    while process.is_alive() and not (log.is_file() and " network " in log.read_text(encoding="utf-8")):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / "store").exists()
    _assert_the_next_run_publishes(folder, [1])


def test_killed_with_versions_in_the_store(folder: Path) -> None:
    """Existing versions are byte-identical after a later run is killed."""
    _assert_the_next_run_publishes(folder, [1], resume=False)
    first = folder / "store" / "toy" / "1"
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    process = _start(folder, 16, ("os.rename", "/toy/2"))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert _verified(folder / "store") == [1]
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before
    _assert_the_next_run_publishes(folder, [1, 2])
