"""Single-task teachers: ordinary fine-tuning of the whole backbone on one task."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from polytask.model.answers import Logits
from polytask.model.encoding import InputEncoder
from polytask.model.network import Network
from polytask.model.tasks import Task
from polytask.training.backbone import Backbone, build_network
from polytask.training.data.examples import EncodedExample, TaskData
from polytask.training.evaluation.evaluate import row_logits
from polytask.training.loop.length import planned_examples
from polytask.training.loop.trainer import Training, train
from polytask.training.preparation import choose_device
from polytask.training.recipes.architecture import ConditioningConfig
from polytask.training.recipes.schema import (
    LengthConfig,
    LossConfig,
    OptimizerConfig,
    Recipe,
    RecipeError,
    SamplerConfig,
    TaskConfig,
)
from polytask.training.recipes.teaching import TeachersConfig
from polytask.training.runs.checkpoints import latest_checkpoint, read_snapshot
from polytask.training.runs.console_display import Display
from polytask.training.runs.run_logger import RunLogger

_DROPOUT = 0.1


@dataclass(frozen=True, slots=True)
class Teacher:
    """A teacher to train, and the examples to which it is to answer.

    `train` and `pupils` are of `task`, which alone is in `recipe`: their task id is 0 and they weigh the same. `indices`: of
    the pupils among the task's training examples.
    """

    recipe: Recipe
    task: Task
    train: Sequence[EncodedExample]
    pupils: Sequence[EncodedExample]
    indices: Sequence[int]


def teacher_recipe(recipe: Recipe, task: TaskConfig, seed: int, num_examples: int) -> Recipe:
    """The recipe of a teacher: one linear head on the mean, every weight learns, all examples weigh the same."""
    teachers = recipe.teachers
    rate = teachers.learning_rates.get(task.name, teachers.learning_rate)
    whole = {"frozen_layers": 0, "frozen_embeddings": False, "fresh_layers": (), "pooling": "mean", "dropout": _DROPOUT}
    backbone = recipe.backbone.model_dump() | whole
    return Recipe(
        name=recipe.name,
        seed=seed,
        backbone=type(recipe.backbone).model_validate(backbone),
        conditioning=ConditioningConfig(alignment=False),
        optimizer=OptimizerConfig(learning_rate=rate, added_learning_rate=rate),
        sampler=SamplerConfig(),
        losses=LossConfig(prior=False),
        teachers=TeachersConfig(),
        length=LengthConfig(
            examples=planned_examples([num_examples], SamplerConfig(), LengthConfig(passes=teachers.passes)),
            batch_rows=recipe.length.batch_rows,
            batch_tokens=recipe.length.batch_tokens,
            checkpoint_every=recipe.length.checkpoint_every,
            bf16=bool(recipe.length.bf16),
        ),
        tasks=(task.model_copy(update={"weight": 1.0, "balanced": False}),),
    )


def single_task_teachers(recipe: Recipe, data: TaskData, examples: Sequence[EncodedExample]) -> Iterator[Teacher]:
    """The teachers of one task: one for each seed and part of its training examples. Raises RecipeError."""
    task = data.task
    parts = recipe.teachers.out_of_fold or 1
    if parts > len(examples):
        raise RecipeError(f"task {task.name!r}: out_of_fold: {parts} parts of {len(examples)} training examples")
    own = [replace(example, task_id=0, weight=1.0, taught=None) for example in examples]
    for seed in range(recipe.teachers.seeds):
        order = list(range(len(own)))
        if parts > 1:
            random.Random(seed).shuffle(order)  # noqa: S311 - sampling, not cryptography
        for part in range(parts):
            indices = sorted(order[part::parts])
            answered = set(indices)
            learnt = own if parts == 1 else [each for index, each in enumerate(own) if index not in answered]
            of_teacher = teacher_recipe(recipe, data.config, seed, len(learnt))
            yield Teacher(of_teacher, task, learnt, [own[index] for index in indices], indices)


def train_teacher(
    teacher: Teacher, backbone: Backbone, encoder: InputEncoder, checkpoints: Path, console: Console
) -> Network:
    """The trained teacher. Goes on from the last of the `checkpoints`, if there is one; raises as `train`."""
    network = build_network(teacher.recipe, backbone, [teacher.task]).to(choose_device())
    decode = backbone.tokenizer.decode
    training = Training(
        network, [teacher.train], teacher.recipe, encoder.pad_id, lambda each: decode(list(each.encodings[0].input_ids))
    )
    total = training.num_planned
    logger = RunLogger(network.tasks, total, display := Display(console, network.tasks, total))
    checkpoint = latest_checkpoint(checkpoints)
    if checkpoint is not None:
        snapshot = read_snapshot(checkpoint)
        training.restore(snapshot)
        logger.restore(snapshot.state["journal"])
    with display:
        train(training, logger, checkpoints, lambda: ())
    return network


def example_logits(network: Network, task_id: int, examples: Sequence[EncodedExample], pad_id: int) -> list[Logits]:
    """The logits of one task for each example: [rows, outputs], or for a token-level task [words or tokens, outputs]."""
    rows = [encoding for example in examples for encoding in example.encodings]
    logits = iter(row_logits(network, rows, task_id, pad_id))
    token_level = network.tasks[task_id].token_level
    return [
        next(logits)[list(example.encodings[0].positions)]
        if token_level
        else np.stack([next(logits) for _ in example.encodings])
        for example in examples
    ]
