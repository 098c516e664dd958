"""Teaching: the training examples of a run with what its teachers answer to them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from polytask.model.encoding import InputEncoder
from polytask.model_store.durable_files import locked, sha256_of
from polytask.model_store.versions import resolve
from polytask.training.backbone import Backbone, weights_file
from polytask.training.data.examples import EncodedExample, TaskData
from polytask.training.loop.distributed import Group
from polytask.training.recipes.schema import Recipe
from polytask.training.teachers.answers import Answers, answer_of, mean_answer
from polytask.training.teachers.logit_cache import cache_path, read_logits, write_logits
from polytask.training.teachers.published import version_answers
from polytask.training.teachers.single_task import Teacher, example_logits, single_task_teachers, train_teacher


def teach(
    recipe: Recipe,
    data: Sequence[TaskData],
    examples: Sequence[Sequence[EncodedExample]],
    backbone: Backbone,
    encoder: InputEncoder,
    *,
    cache: Path,
    store: Path,
    console: Console,
    group: Group | None = None,
) -> list[list[EncodedExample]]:
    """The training examples, `examples[t]` of task t, with the answers of the recipe's teachers.

    Teachers whose logits are not in the folder `cache` are trained first; the processes of `group` share the work. Raises
    as `train`, RecipeError, StoreError, or RunError for a broken file of logits.
    """
    answers: Sequence[Sequence[Answers] | None]
    if recipe.teachers.version is not None:
        version = resolve(store, recipe.teachers.version)
        answers = version_answers(version, data, examples, backbone.tokenizer, console)
    else:
        answers = _taught_by_tasks(recipe, data, examples, backbone, encoder, cache, console, group or Group())
    return [
        list(own) if told is None else [replace(example, taught=each) for example, each in zip(own, told, strict=True)]
        for own, told in zip(examples, answers, strict=True)
    ]


def logits_path(cache: Path, teacher: Teacher, backbone: Backbone) -> Path:
    """The file of a teacher's logits, named by everything that determines them."""
    recipe = teacher.recipe
    settings = {
        "backbone": sha256_of(weights_file(backbone.folder)),
        "network": recipe.backbone.model_dump(mode="json", exclude={"name"}),
        "optimizer": recipe.optimizer.model_dump(mode="json"),
        "length": recipe.length.model_dump(mode="json", include={"examples", "batch_rows", "batch_tokens", "bf16"}),
        "seed": recipe.seed,
    }
    return cache_path(cache, teacher.task, settings, teacher.train, teacher.pupils)


def _taught_by_tasks(
    recipe: Recipe,
    data: Sequence[TaskData],
    examples: Sequence[Sequence[EncodedExample]],
    backbone: Backbone,
    encoder: InputEncoder,
    cache: Path,
    console: Console,
    group: Group,
) -> list[list[Answers]]:
    """The mean of the answers of all of a task's teachers to each of its examples."""
    teachers = [
        [(teacher, logits_path(cache, teacher, backbone)) for teacher in single_task_teachers(recipe, each, own)]
        for each, own in zip(data, examples, strict=True)
    ]
    every = [pair for of_task in teachers for pair in of_task]
    missing = [pair for pair in every if not pair[1].exists()]
    console.print(f"{len(every)} teachers, {len(every) - len(missing)} of them known from {cache}", soft_wrap=True)
    for number, (teacher, path) in enumerate(missing[group.rank :: group.size]):
        which = f"teacher {group.rank + number * group.size + 1} of {len(missing)}: {teacher.task.name}"
        console.print(f"{which}, seed {teacher.recipe.seed}, {len(teacher.train):,} examples", soft_wrap=True)
        _fill(path, teacher, backbone, encoder, console)
    group.any(flag=False)  # all wait for the slowest
    return [_mean_answers(of_task, len(own)) for of_task, own in zip(teachers, examples, strict=True)]


def _fill(path: Path, teacher: Teacher, backbone: Backbone, encoder: InputEncoder, console: Console) -> None:
    """Trains the teacher and writes its logits, unless another run has done so in the meantime."""
    checkpoints = path.with_suffix(".training")
    checkpoints.mkdir(parents=True, exist_ok=True)
    with locked(checkpoints):
        if not path.exists():
            network = train_teacher(teacher, backbone, encoder, checkpoints, console)
            write_logits(path, example_logits(network, 0, teacher.pupils, encoder.pad_id))
        shutil.rmtree(checkpoints, ignore_errors=True)


def _mean_answers(teachers: Sequence[tuple[Teacher, Path]], num_examples: int) -> list[Answers]:
    answers: list[list[Answers]] = [[] for _ in range(num_examples)]
    for teacher, path in teachers:
        logits = read_logits(path, teacher.task, teacher.pupils)
        for index, each in zip(teacher.indices, logits, strict=True):
            answers[index].append(answer_of(teacher.task, each))
    return [mean_answer(teachers[0][0].task, own) for own in answers]
