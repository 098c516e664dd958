"""Tuning of a version: the next version differs in the tuned task alone."""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from polytask import cli
from polytask.model.tasks import Kind
from polytask.model_store.load import load, verify
from polytask.model_store.versions import versions
from polytask.training import pipeline
from polytask.training.data.issues import DataError
from polytask.training.pipeline import evaluate_version, run_recipe
from polytask.training.tuning.tune_version import UnknownTask, tune_version
from tests.model.support.networks import random_batch, run
from tests.training.support import toy

KINDS = [Kind.CLASSIFICATION, Kind.TAGGING, Kind.MULTILABEL]


class Origin:
    """A version that was trained for a moment, and its data."""

    def __init__(self, folder: Path, toy_folder: Path) -> None:
        self.store, self.data, self.output = folder / "store", folder / "data", io.StringIO()
        toy.write_data(self.data, train=120)
        recipe = folder / "recipe.toml"
        stage = {"rank": 2, "learning_rate": 2e-2, "passes": 4, "batch_rows": 16, "tasks": ["topics"]}
        length = {"examples": 16, "tensorboard": False}
        fields = toy.fields(toy_folder / "backbone", KINDS, length=length, second_stage=stage)
        recipe.write_text(toy.to_toml(fields), encoding="utf-8")
        self.version = run_recipe(recipe, self.data, self.store, self.console, folder / "run")

    @property
    def console(self) -> Console:
        """A console that writes into `output`."""
        return Console(file=self.output, width=120)

    def tune(self, *names: str) -> Path | None:
        """The next version."""
        return tune_version(self.version, names, self.data, self.store, self.console)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory, toy_folder: Path) -> Origin:
    """A version of three tasks, one of which was tuned by its run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "write_report", lambda folder: folder / "report.html")
        return Origin(tmp_path_factory.mktemp("origin"), toy_folder)


@pytest.fixture(scope="module")
def tuned(origin: Origin) -> Path:
    """The next version, in which `mood` was tuned."""
    version = origin.tune("mood")
    assert version is not None
    return version


def test_the_next_version_is_published(origin: Origin, tuned: Path) -> None:
    """It is whole, its provenance says what was tuned from which version, its metrics are those of its weights, and what it is
    compared with is as it was.
    """
    assert tuned == origin.store / "toy" / "2"
    before, after = verify(origin.version), verify(tuned)
    assert after.metrics["mood"] != before.metrics["mood"]
    assert {name: after.metrics[name] for name in ("topics", "entities")} == {
        name: before.metrics[name] for name in ("topics", "entities")
    }
    assert after.baselines == before.baselines
    assert after.references == before.references != {}
    (tuning,) = after.provenance["tuned"]
    assert (tuning["from"], list(tuning["tasks"]), tuning["tasks"]["mood"]["kept"]) == ("toy/1", ["mood"], True)
    assert after.provenance["recipe"] == before.provenance["recipe"]
    measured = evaluate_version(tuned, origin.data, Console(quiet=True))
    assert measured == after.metrics


def test_other_tasks_are_as_they_were(origin: Origin, tuned: Path) -> None:
    """Other tasks have the same logits to the bit, golden answers and lines in the card; those of the tuned task are new."""
    before, after = load(origin.version), load(tuned)
    batch = random_batch(before.network.config, [9, 4, 17, 30, 12], [1, 2, 1, 2, 0])
    old, new = run(before.network, batch), run(after.network, batch)
    mood = before.network.output_slices[0]
    columns = [index for index in range(old.sentence.shape[1]) if not mood.start <= index < mood.stop]
    assert torch.equal(old.sentence[:4, columns], new.sentence[:4, columns])
    assert not torch.equal(old.sentence[4, mood], new.sentence[4, mood])
    assert old.token is not None
    assert new.token is not None
    assert torch.equal(old.token[:4], new.token[:4])
    goldens = [[golden for golden in each.manifest.goldens if golden.task != "mood"] for each in (before, after)]
    assert goldens[0] == goldens[1]
    lines = [[line for line in each.card.splitlines() if "`topics`" in line] for each in (before, after)]
    assert lines[0]
    assert lines[0] == lines[1]
    assert f"| {after.manifest.metrics['mood']['accuracy']:.4f} |" in after.card
    assert "Tuned from toy/1" in after.card


def test_a_version_that_was_tuned_can_be_tuned(origin: Origin, tuned: Path) -> None:
    """A second task is tuned on top of the first, which stays as it is; both are in the provenance."""
    version = tune_version(tuned, ["entities"], origin.data, origin.store, origin.console)
    assert version is not None
    before, after = load(tuned), load(version)
    assert [entry["from"] for entry in after.manifest.provenance["tuned"]] == ["toy/1", "toy/2"]
    assert before.network.config.num_tuned_rows + 1 == after.network.config.num_tuned_rows
    batch = random_batch(before.network.config, [9, 4, 17], [0, 2, 0])
    assert torch.equal(run(before.network, batch).sentence, run(after.network, batch).sentence)


def _with_random_labels(data: Path) -> Path:
    """The data of `mood` with labels that nothing can learn."""
    generator = random.Random(1)  # noqa: S311 - sampling, not cryptography
    for part in ("train", "validation"):
        lines = (data / "mood" / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) | {"label": generator.choice(["good", "bad"])} for line in lines]
        toy.write_records(data / "mood" / f"{part}.jsonl", records)
    return data


def test_nothing_is_published_where_nothing_got_better(
    origin: Origin, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A task that cannot be learnt keeps its old state; the command says so with exit code 1 and publishes nothing."""
    data, before = _with_random_labels(shutil.copytree(origin.data, tmp_path / "data")), versions(origin.store, "toy")
    words = ["tasks", "tune", f"toy/{tuned.name}", "mood", "--data", str(data), "--store", str(origin.store)]
    monkeypatch.setattr("sys.argv", ["polytask", *words])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == 1
    said = capsys.readouterr()
    assert "mood: accuracy " in said.out
    assert "the old state stays" in said.out
    assert "nothing is published" in said.err
    assert versions(origin.store, "toy") == before


def test_a_task_that_there_is_not_is_named(origin: Origin) -> None:
    """An unknown task is an error that suggests the nearest one, and lists all."""
    with pytest.raises(UnknownTask, match=r"no task 'moods'; did you mean 'mood'\?; toy/1 has mood, entities, topics"):
        origin.tune("moods")


def test_other_labels_are_refused(origin: Origin, tmp_path: Path) -> None:
    """Data with a label that the version does not have are an error, as its head has no column for it."""
    data = shutil.copytree(origin.data, tmp_path / "data")
    with (data / "mood" / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "a cat", "label": "so so"}\n')
    with pytest.raises(DataError, match="label 'so so' is not one of the task's 2 labels"):
        tune_version(origin.version, ["mood"], data, origin.store, origin.console)
