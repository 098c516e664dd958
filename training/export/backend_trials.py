"""Backend trials: the answers of a backend to validation examples, and its speed beside that of other backends."""

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
_NUM_ROUNDS = 6
"""All backends take turns in each round. The first is not timed: in it kernels are compiled and memory is allocated."""

_TIMED_SHARE = 0.75
"""The share of the rows that is timed, the shortest ones: a few very long rows would hide the cost of most rows."""


class EncodedTask:
    """Inputs of a task and their rows, tokenised once for all backends."""

    def __init__(self, encoder: InputEncoder, task: Task, task_id: int, inputs: tuple[Input, ...]) -> None:
        self.task_id = task_id
        self.inputs = inputs
        self.rows = encoder.encode(task, inputs)
        self.num_rows = sum(map(len, self.rows))
        self.pad_id = encoder.pad_id


def answer_task(run: RunBatch, tasks: Sequence[Task], encoded: EncodedTask) -> list[Answer]:
    """One answer per input, in order."""
    rows = [row for input_rows in encoded.rows for row in input_rows]
    logits = logits_by(run, tasks, rows, encoded.task_id, encoded.pad_id)
    return answers_from(tasks[encoded.task_id], encoded.inputs, encoded.rows, logits)


def score_backend(run: RunBatch, data: Sequence[TaskData], encoded_tasks: Sequence[EncodedTask]) -> dict[str, Scores]:
    """Every task's metrics on its validation examples; `encoded_tasks[t]` holds those of task t."""
    tasks = [task_data.task for task_data in data]
    return {
        task_data.task.name: score_task(task_data, answer_task(run, tasks, encoded))
        for task_data, encoded in zip(data, encoded_tasks, strict=True)
    }


def differences(scores: Mapping[str, Scores], reference: Mapping[str, Scores]) -> dict[str, float]:
    """Each task's main metric minus that of the reference, in hundredths."""
    main_metrics = {task: next(iter(task_scores)) for task, task_scores in reference.items()}
    return {task: 100 * (scores[task][metric] - reference[task][metric]) for task, metric in main_metrics.items()}


def rows_per_second(
    runs: Mapping[str, RunBatch], rows: Sequence[tuple[int, Encoding]], pad_id: int, threads: int
) -> dict[str, dict[str, float]]:
    """Rows per second of each backend by batch size, the best of all rounds.

    `rows`: task ids and encodings. The rows of a batch have about the same length. With one thread CPU time is measured,
    which other processes disturb less.
    """
    batches = {size: list(_batches(rows, size, pad_id)) for size in BATCH_SIZES}
    best: dict[tuple[str, int], float] = {}
    for round_number in range(_NUM_ROUNDS):
        for size, sized_batches in batches.items():
            for name, run in runs.items():
                seconds = _seconds(run, sized_batches, threads)
                if round_number:
                    best[name, size] = min(seconds, best.get((name, size), seconds))
    num_rows = {size: sum(len(batch.lengths) for batch in sized_batches) for size, sized_batches in batches.items()}
    return {name: {str(size): count / best[name, size] for size, count in num_rows.items()} for name in runs}


def _seconds(run: RunBatch, batches: Sequence[Batch], threads: int) -> float:
    clock = time.process_time if threads == 1 else time.perf_counter
    started = clock()
    for batch in batches:
        run(batch)
    return clock() - started


def _batches(rows: Sequence[tuple[int, Encoding]], size: int, pad_id: int) -> Iterator[Batch]:
    by_length = sorted(rows, key=lambda row: len(row[1]))[: max(1, int(_TIMED_SHARE * len(rows)))]
    for start in range(0, len(by_length), size):
        part = by_length[start : start + size]
        yield collate([row for _, row in part], [task_id for task_id, _ in part], token_level=True, pad_id=pad_id)
