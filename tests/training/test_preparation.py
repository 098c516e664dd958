"""Preparation of a run."""

from __future__ import annotations

from rich.console import Console

from polytask.training.data.examples import READING
from polytask.training.preparation import load_data, prepare
from tests.training.conftest import Workshop
from tests.training.support import toy


def test_tasks_keep_the_recipes_order(workshop: Workshop) -> None:
    """A task's index in the recipe is its id."""
    tasks = workshop.recipe.tasks[::-1]
    data = load_data(workshop.recipe.model_copy(update={"tasks": tasks}), workshop.folder / "data", Console(quiet=True))
    assert [task_data.task.name for task_data in data] == [task.name for task in tasks]


def test_a_run_resumes_only_by_the_same_rules_of_reading(workshop: Workshop) -> None:
    """The fingerprint of a run has the number of the rules by which its files became examples."""
    fields = toy.fields(workshop.recipe.backbone.name)
    prepared = prepare(workshop.recipe, toy.to_toml(fields), workshop.folder / "data", Console(quiet=True))
    assert prepared.fingerprint(1)["reading"] == prepared.provenance["reading"] == READING
