"""Version data: the examples on which a published version is measured again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from polytask.model.tasks import Kind
from polytask.model_store.errors import ManifestInvalid
from polytask.model_store.save import NewVersion, save
from polytask.training.data.issues import DataError
from polytask.training.data.version_data import changed_files, validation_data
from polytask.training.preparation import load_data
from polytask.training.recipes.schema import Recipe
from polytask.training.runs.provenance import provenance
from tests.training.conftest import Workshop
from tests.training.support import toy


class Published:
    """A version with the toy tasks, as `polytask train` would publish it, and a copy of its data."""

    def __init__(self, folder: Path, workshop: Workshop) -> None:
        self.store = folder / "store"
        self.data = shutil.copytree(workshop.folder / "data", folder / "data")
        self.contents = NewVersion(
            network=workshop.network(),
            tokenizer_json=workshop.backbone.tokenizer.to_str(),
            base=None,
            precision=workshop.network().heads.sentence.weight.dtype,
            metrics={},
            baselines={},
            goldens=(),
            provenance=provenance(workshop.recipe, toy.to_toml(toy.fields(workshop.backbone.folder)), self.data),
            card="",
        )

    def version(self, **told: Any) -> Path:
        """A new version, with `told` in its provenance."""
        return save(self.store, "toy", replace(self.contents, provenance=self.contents.provenance | told))


@pytest.fixture
def published(tmp_path: Path, workshop: Workshop) -> Published:
    """A version that can be saved, and its data."""
    return Published(tmp_path, workshop)


def test_tasks_and_examples_are_those_of_the_run(published: Published, workshop: Workshop) -> None:
    """Tasks and validation examples are those of the run, and no training file is needed for them."""
    for file in published.data.rglob("train.jsonl"):
        file.unlink()
    version = published.version()
    data = validation_data(version, published.data)
    assert [(task_data.task, task_data.validation) for task_data in data] == [
        (task_data.task, task_data.validation) for task_data in workshop.data
    ]
    assert not any(task_data.train for task_data in data)
    assert changed_files(version, published.data) == []


def test_labels_are_the_versions_own(published: Published) -> None:
    """Changed training files do not change the labels, and an unknown validation label is an error."""
    version = published.version()
    before = validation_data(version, published.data)
    toy.write_records(published.data / "mood" / "train.jsonl", [{"text": "a", "label": x} for x in "xyz"])
    assert validation_data(version, published.data) == before
    toy.write_records(published.data / "mood" / "validation.jsonl", [{"text": "a", "label": "x"}])
    toy.write_records(published.data / "answer" / "validation.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match=r"(?s)mood/validation.jsonl:1: label 'x' .*answer/validation.jsonl:1: "):
        validation_data(version, published.data)


def test_changed_files_are_named(published: Published) -> None:
    """Validation files with other bytes, and files of which the version has no hash, are named."""
    name = toy.TASKS[Kind.SPAN]
    version, untold = published.version(), published.version(data=None)
    toy.write_records(published.data / name / "validation.jsonl", toy.records(Kind.SPAN, 3, seed=9))
    assert changed_files(version, published.data) == [f"{name}/validation.jsonl"]
    assert len(changed_files(untold, published.data)) == len(toy.TASKS)


def test_a_held_out_part_by_other_rules_is_named(published: Published, workshop: Workshop) -> None:
    """A version whose held-out records were drawn by other rules was not measured on those that are held out now."""
    fields = toy.fields(workshop.backbone.folder)
    fields["tasks"][0] |= {"validation": {}, "holdout": 0.2}
    origin = provenance(Recipe.model_validate(fields), toy.to_toml(fields), published.data)
    assert changed_files(published.version(**origin), published.data) == []
    older = published.version(**{**origin, "reading": 1})
    assert changed_files(older, published.data) == [fields["tasks"][0]["train"]]


def test_several_splits_are_measured_again(published: Published, workshop: Workshop) -> None:
    """Named validation splits, or a held-out share of train, have the same examples as in training."""
    near, far = toy.fields(workshop.backbone.folder, [Kind.SPAN, Kind.RANKING])["tasks"]
    near |= {"validation": {"near": near["validation"], "far": "answer/far.jsonl"}}
    far |= {"validation": {}, "holdout": 0.2, "cap": 9}
    toy.write_records(published.data / "answer" / "far.jsonl", toy.records(Kind.SPAN, 5, seed=2))
    fields = toy.fields(workshop.backbone.folder)
    fields["tasks"] = [near if task["name"] == "answer" else task for task in fields["tasks"]]
    fields["tasks"] = [far if task["name"] == "relevance" else task for task in fields["tasks"]]
    recipe = Recipe.model_validate(fields)
    version = published.version(**provenance(recipe, toy.to_toml(fields), published.data))
    assert validation_data(version, published.data) == [
        replace(own, train=()) for own in load_data(recipe, published.data, Console(quiet=True))
    ]
    assert changed_files(version, published.data) == []
    toy.write_records(published.data / "answer" / "far.jsonl", toy.records(Kind.SPAN, 5, seed=3))
    toy.write_records(published.data / "relevance" / "train.jsonl", toy.records(Kind.RANKING, 5, seed=3))
    assert changed_files(version, published.data) == ["relevance/train.jsonl", "answer/far.jsonl"]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (None, "has no recipe in its provenance"),
        ({"seed": 1}, "has no recipe in its provenance"),
        ("name = ", "a recipe that this release cannot read"),
        ("name = 'toy'", "a recipe that this release cannot read"),
        (toy.to_toml(toy.fields("backbone", [Kind.SPAN])), "a recipe without the task 'mood'"),
    ],
)
def test_a_version_without_a_usable_recipe_is_an_error(published: Published, recipe: object, message: str) -> None:
    """A version without a usable recipe is an error that names the manifest and the reason."""
    version = published.version(recipe=recipe)
    with pytest.raises(ManifestInvalid, match=rf"\A{version}/manifest.json: .*{message}"):
        validation_data(version, published.data)
