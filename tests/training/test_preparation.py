"""Preparation of a run."""

from __future__ import annotations

from polytask.training.preparation import load_data
from tests.training.conftest import Workshop


def test_tasks_keep_the_recipes_order(workshop: Workshop) -> None:
    """A task's index in the recipe is its id."""
    tasks = workshop.recipe.tasks[::-1]
    data = load_data(workshop.recipe.model_copy(update={"tasks": tasks}), workshop.folder / "data")
    assert [task_data.task.name for task_data in data] == [task.name for task in tasks]
