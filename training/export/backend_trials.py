"""What an engine is worth: its answers to validation examples, and its speed beside that of others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from polytask.model.answers import Answer
from polytask.model.batch import Batch, collate
from polytask.model.encoding import Encoding, Input, InputEncoder
from polytask.model.tasks import Task
from polytask.training.data.examples import TaskData
from polytask.training.evaluation.evaluate import RunBatch, answers_from, logits_by
from polytask.training.evaluation.metrics import Scores, score_task

BATCH_SIZES = (1, 8, 32)
_ROUNDS = 6
"""In which all engines take turns; the first is not timed, as it compiles kernels and finds memory."""

_SHORTER = 0.75
"""The share of the rows that are timed: a few very long ones would hide what most of them cost."""


class EncodedTask:
    """Inputs of a task and their rows, tokenised once for all engines."""

    def __init__(self, encoder: InputEncoder, task: Task, task_id: int, inputs: tuple[Input, ...]) -> None:
        self.task_id = task_id
        self.inputs = inputs
        self.rows = encoder.encode(task, inputs)
        self.num_rows = sum(map(len, self.rows))
        self.pad_id = encoder.pad_id


def answers(run: RunBatch, tasks: Sequence[Task], question: EncodedTask) -> list[Answer]:
    """One answer per input, in order."""
    rows = [row for own in question.rows for row in own]
    logits = logits_by(run, tasks, rows, question.task_id, question.pad_id)
    return answers_from(tasks[question.task_id], question.inputs, question.rows, logits)


def score(run: RunBatch, data: Sequence[TaskData], questions: Sequence[EncodedTask]) -> dict[str, Scores]:
    """Every task's metrics on its validation examples, which are the `questions`."""
    tasks = [own.task for own in data]
    return {
        own.task.name: score_task(own, answers(run, tasks, question))
        for own, question in zip(data, questions, strict=True)
    }


def differences(found: Mapping[str, Scores], reference: Mapping[str, Scores]) -> dict[str, float]:
    """By task, what its main metric is above that of the reference, in hundredths."""
    main = {task: next(iter(own)) for task, own in reference.items()}
    return {task: 100 * (found[task][metric] - reference[task][metric]) for task, metric in main.items()}


def speeds(
    runs: Mapping[str, RunBatch], rows: Sequence[tuple[int, Encoding]], pad_id: int, threads: int
) -> dict[str, dict[str, float]]:
    """Rows a second of each engine, by how many rows its batches have: the best of the rounds.

    `rows`: task ids and encodings. Those of a batch are of about one length. With one thread CPU time is counted, so
    that other processes matter less.
    """
    batches = {size: list(_batches(rows, size, pad_id)) for size in BATCH_SIZES}
    best: dict[tuple[str, int], float] = {}
    for number in range(_ROUNDS):
        for size, own in batches.items():
            for name, run in runs.items():
                seconds = _seconds(run, own, threads)
                if number:
                    best[name, size] = min(seconds, best.get((name, size), seconds))
    return {
        name: {str(size): sum(len(batch.lengths) for batch in own) / best[name, size] for size, own in batches.items()}
        for name in runs
    }


def _seconds(run: RunBatch, batches: Sequence[Batch], threads: int) -> float:
    clock = time.process_time if threads == 1 else time.perf_counter
    started = clock()
    for batch in batches:
        run(batch)
    return clock() - started


def _batches(rows: Sequence[tuple[int, Encoding]], size: int, pad_id: int) -> Iterator[Batch]:
    ordered = sorted(rows, key=lambda row: len(row[1]))[: max(1, int(_SHORTER * len(rows)))]
    for start in range(0, len(ordered), size):
        part = ordered[start : start + size]
        yield collate([row for _, row in part], [task_id for task_id, _ in part], token_level=True, pad_id=pad_id)
