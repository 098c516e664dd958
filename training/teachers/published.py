"""A published version as a teacher of the tasks that have the same name, kind and labels there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tokenizers
from rich.console import Console

from polytask.model.answers import Logits
from polytask.model.encoding import InputEncoder
from polytask.model.tasks import Kind, Task
from polytask.model_store.load import load
from polytask.training.data.examples import EncodedExample, Example, TaskData, encode_examples
from polytask.training.preparation import choose_device
from polytask.training.recipes.schema import RecipeError
from polytask.training.runs.progress import ProgressBar, rows_counted
from polytask.training.teachers.answers import Answers, answer_of, mean_answer
from polytask.training.teachers.single_task import example_logits


def version_answers(
    version: Path,
    data: Sequence[TaskData],
    examples: Sequence[Sequence[EncodedExample]],
    tokenizer: tokenizers.Tokenizer,
    console: Console,
) -> Sequence[Sequence[Answers] | None]:
    """The version's answers to the training examples of each task; None for a task that it does not have.

    Raises StoreError, or RecipeError if it cannot teach them.
    """
    checkpoint = load(version)
    network, encoder = checkpoint.network.to(choose_device()), InputEncoder(checkpoint.tokenizer)
    same_tokens = checkpoint.tokenizer.to_str() == tokenizer.to_str()
    known = {task.name: task_id for task_id, task in enumerate(network.tasks)}
    strangers = [own.task.name for own in data if own.task.name not in known]
    if len(strangers) == len(data):
        raise RecipeError(f"teachers.version: {version} has no task of the recipe; it has {', '.join(known)}")
    if strangers:
        console.print(f"{version} does not teach {', '.join(strangers)}, which it does not have", soft_wrap=True)
    answers: list[list[Answers] | None] = []
    for own, encoded in zip(data, examples, strict=True):
        if own.task.name in strangers:
            answers.append(None)
            continue
        task_id = known[own.task.name]
        teacher = network.tasks[task_id]
        _check(version, own.task, teacher, network.config.max_length, same_tokens=same_tokens)
        if not own.task.token_level:
            rows: Sequence[EncodedExample] = _as_it_reads_them(encoder, teacher, own.train)
        elif own.task.word_shapes == teacher.word_shapes:
            rows = encoded
        else:  # the same tokens, in the segments that the version has
            rows = encode_examples(encoder, replace(own.task, word_shapes=teacher.word_shapes), task_id, own.train)
        total = sum(len(example.encodings) for example in rows)
        with (
            ProgressBar(console, f"asking {version} about {own.task.name}", total, "rows") as bar,
            rows_counted(network, bar.advance),
        ):
            logits = example_logits(network, task_id, rows, encoder.pad_id)
        answers.append([mean_answer(own.task, [_converted(own.task, teacher, each)]) for each in logits])
    return answers


def _as_it_reads_them(encoder: InputEncoder, teacher: Task, examples: Sequence[Example]) -> list[EncodedExample]:
    """The examples as rows of the version, whose tokens may be others than the recipe's."""
    encodings = encoder.encode(teacher, [example.input for example in examples])
    return [EncodedExample(0, rows, None) for rows in encodings]


def _check(version: Path, task: Task, teacher: Task, max_length: int, *, same_tokens: bool) -> None:
    """Raises RecipeError if the version's task of the same name cannot teach the recipe's."""
    problem = None
    if (task.kind, task.labels, task.may_lack_answer) != (teacher.kind, teacher.labels, teacher.may_lack_answer):
        problem = f"is another task: {teacher.kind} with {len(teacher.labels)} labels, or the same in another order"
    elif task.token_level and not same_tokens:
        problem = (
            "has other tokens, which teach nothing about ours; a teacher of it needs the same backbone's tokenizer"
        )
    elif task.token_level and task.max_length > max_length:
        problem = f"reads at most {max_length} tokens, of the recipe's {task.max_length}"
    if problem:
        raise RecipeError(f"teachers.version: {task.name!r} of {version} {problem}")


def _converted(task: Task, teacher: Task, logits: Logits) -> Answers:
    """The teacher's answer in terms of the task: a regression may have another range or form there."""
    answer = answer_of(teacher, logits)
    if task.kind is not Kind.REGRESSION:
        return answer
    assert task.value_range is not None
    assert teacher.value_range is not None
    (low, high), (lowest, highest) = task.value_range, teacher.value_range
    value = answer if teacher.raw_output else lowest + answer * (highest - lowest)
    return value if task.raw_output else np.clip((value - low) / (high - low), 0, 1)
