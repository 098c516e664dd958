"""Single-task teachers: what each is trained on, and what it answers."""

from __future__ import annotations

from typing import Any

import pytest

from polytask.training.loop.length import planned_examples
from polytask.training.recipes.schema import LengthConfig, Recipe, RecipeError, SamplerConfig
from polytask.training.teachers.single_task import Teacher, single_task_teachers
from tests.training.conftest import Workshop
from tests.training.support import toy


def _recipe(workshop: Workshop, **teachers: Any) -> Recipe:
    return toy.recipe(workshop.folder / "backbone", teachers={"seeds": 1} | teachers)


def _teachers(workshop: Workshop, task_id: int = 2, **teachers: Any) -> list[Teacher]:
    recipe = _recipe(workshop, **teachers)
    return list(single_task_teachers(recipe, workshop.data[task_id], workshop.examples[task_id]))


def test_a_teacher_is_ordinary_fine_tuning(workshop: Workshop) -> None:
    """A teacher learns one task with all of its weights at one rate, without conditioning, weights or teachers of its own."""
    (teacher,) = _teachers(workshop, passes=2, learning_rate=3e-4)
    recipe = teacher.recipe
    assert recipe.length.examples == 2 * len(workshop.examples[2])
    assert (recipe.optimizer.learning_rate, recipe.optimizer.added_learning_rate) == (3e-4, 3e-4)
    assert (recipe.backbone.frozen_layers, recipe.backbone.frozen_embeddings) == (0, False)
    switches = recipe.conditioning
    assert not any((switches.alignment, switches.attention, switches.layer_norm, switches.bottleneck))
    assert [task.name for task in recipe.tasks] == [teacher.task.name] == [workshop.data[2].task.name]
    assert not recipe.teachers.teach
    assert {example.task_id for example in teacher.train} == {0}


def test_small_tasks_are_seen_more_often(workshop: Workshop) -> None:
    """Without `passes` a teacher is trained for as long as a run of its task alone would choose."""
    (teacher,) = _teachers(workshop)
    alone = planned_examples([len(workshop.examples[2])], SamplerConfig(), LengthConfig())
    assert teacher.recipe.length.examples == alone > 10 * len(workshop.examples[2])


def test_a_task_may_have_its_own_rate(workshop: Workshop) -> None:
    """`learning_rates` holds for the task that it names, and no other."""
    name = workshop.data[2].task.name
    for task_id, rate in ((2, 5e-5), (1, 1e-4)):
        (teacher,) = _teachers(workshop, task_id, learning_rates={name: 5e-5})
        assert teacher.recipe.optimizer.learning_rate == rate


def test_every_seed_is_a_teacher(workshop: Workshop) -> None:
    """Several teachers of a task differ in their seed, and each answers everything."""
    teachers = _teachers(workshop, seeds=3)
    assert [teacher.recipe.seed for teacher in teachers] == [0, 1, 2]
    assert all(teacher.pupils == teacher.train for teacher in teachers)


def test_no_teacher_answers_what_it_was_trained_on(workshop: Workshop) -> None:
    """With `out_of_fold` each example is answered once a seed, by a teacher that was trained on all others of another part."""
    own = workshop.examples[2]
    teachers = _teachers(workshop, seeds=2, out_of_fold=3)
    assert len(teachers) == 6
    for of_seed in (teachers[:3], teachers[3:]):
        assert sorted(index for teacher in of_seed for index in teacher.indices) == list(range(len(own)))
        for teacher in of_seed:
            assert len(teacher.train) + len(teacher.pupils) == len(own)
            learnt, answered = ({each.encodings for each in side} for side in (teacher.train, teacher.pupils))
            twins = {each.encodings for each in own if sum(other.encodings == each.encodings for other in own) > 1}
            assert not (learnt & answered) - twins
    assert teachers[0].indices != teachers[3].indices, "each seed cuts anew"


def test_more_parts_than_examples_are_refused(workshop: Workshop) -> None:
    """A part without an example is an error that names task and key."""
    with pytest.raises(RecipeError, match=r"closeness.*out_of_fold: 1000 parts of \d+ training examples"):
        _teachers(workshop, out_of_fold=1000)
