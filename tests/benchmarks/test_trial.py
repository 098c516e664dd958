"""Quality trial that is stopped and resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.quality import trial
from benchmarks.quality.methods import METHODS, changed
from benchmarks.quality.simple_trial import run_simple_trial
from benchmarks.quality.trial import Outcome, run_trial
from polytask.model.tasks import Kind
from polytask.training.runs.checkpoints import Snapshot, write_checkpoint
from tests.training.support import toy

_ENOUGH = 3
"""Checkpoints after which it is stopped."""


def test_it_goes_on_from_its_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that was stopped resumes with the result of an undisturbed run, and leaves no checkpoint behind."""
    recipe = toy.recipe(toy.write_backbone(tmp_path / "backbone"), [Kind.CLASSIFICATION, Kind.TAGGING])
    recipe = changed(recipe, length={"examples": 120})
    toy.write_data(tmp_path / "data")
    written: list[int] = []

    def run() -> Outcome:
        found = run_trial("toy", METHODS["ca-mtl"], recipe, tmp_path / "data", Console(quiet=True))
        return replace(found, seconds=0.0)

    def write_and_stop(folder: Path, updates: int, snapshot: Snapshot) -> None:
        write_checkpoint(folder, updates, snapshot)
        written.append(updates)
        if len(written) == _ENOUGH:
            raise KeyboardInterrupt

    monkeypatch.setattr(trial, "_RUNS", tmp_path / "runs")
    undisturbed = run()
    monkeypatch.setattr(trial, "_CHECKPOINT_S", 0)
    monkeypatch.setattr(trial, "write_checkpoint", write_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert run() == undisturbed
    assert written[_ENOUGH] > written[_ENOUGH - 1], "it did not begin anew"
    assert not list((tmp_path / "runs").rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["tfidf", "frozen"])
def test_simple_models_are_trials_too(tmp_path: Path, name: str) -> None:
    """A simple model of one task has its scores and the number of examples that it has learnt from, and trains no network."""
    recipe = toy.recipe(toy.write_backbone(tmp_path / "backbone"), [Kind.CLASSIFICATION])
    toy.write_data(tmp_path / "data")
    found = run_simple_trial("toy", METHODS[name], recipe, tmp_path / "data")
    assert list(found.scores) == list(found.tasks) == [toy.TASKS[Kind.CLASSIFICATION]]
    assert (found.method, found.updates, found.added, found.trainable) == (name, 0, 0, 0)
    assert found.examples == sum(found.examples_by_task.values()) > 0
