"""Evaluation: a network's answers to examples, with the service's own encoding and decoding, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from polytask.model.answers import DEFAULT_OPTIONS, Answer, AnswerOptions, Logits, answer
from polytask.model.batch import Batch, collate
from polytask.model.encoding import Encoding, Input, InputEncoder
from polytask.model.heads import Outputs, output_slices
from polytask.model.network import Network
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import TaskData
from polytask.training.data.running_text import running_text
from polytask.training.evaluation.metrics import Scores, score_task, score_task_on_text

_MAX_ROWS = 64
_MAX_TOKENS = 8192

RunBatch = Callable[[Batch], Outputs]
"""Runs a batch and returns its logits, on the CPU."""


@torch.inference_mode()
def answer_inputs(
    network: Network,
    encoder: InputEncoder,
    task_id: int,
    inputs: Sequence[Input],
    options: AnswerOptions = DEFAULT_OPTIONS,
) -> list[Answer]:
    """One answer per input, in order. The network is left in eval mode."""
    encodings, logits = input_logits(network, encoder, task_id, inputs)
    return answers_from(network.tasks[task_id], inputs, encodings, logits, options)


def input_logits(
    network: Network, encoder: InputEncoder, task_id: int, inputs: Sequence[Input]
) -> tuple[list[tuple[Encoding, ...]], list[Logits]]:
    """The rows of each input, and the logits of all rows, in order."""
    encodings = encoder.encode(network.tasks[task_id], inputs)
    rows = [row for own in encodings for row in own]
    return encodings, row_logits(network, rows, task_id, encoder.pad_id)


def answers_from(
    task: Task,
    inputs: Sequence[Input],
    encodings: Sequence[tuple[Encoding, ...]],
    logits: Iterable[Logits],
    options: AnswerOptions = DEFAULT_OPTIONS,
) -> list[Answer]:
    """One answer per input, in order, from the logits of all rows, in order."""
    remaining = iter(logits)
    return [
        answer(task, item, rows, [next(remaining) for _ in rows], options)
        for item, rows in zip(inputs, encodings, strict=True)
    ]


@torch.inference_mode()
def row_logits(network: Network, rows: Sequence[Encoding], task_id: int, pad_id: int) -> list[Logits]:
    """The logits of one task for each row, in order: [outputs], or [length, outputs] for a token-level task."""
    network.eval()
    tables = network.condition()
    device = next(network.parameters()).device

    def run(batch: Batch) -> Outputs:
        outputs: Outputs = network(batch.to(device), tables)
        return outputs.to_cpu()

    return logits_by(run, network.tasks, rows, task_id, pad_id)


def logits_by(
    run: RunBatch, tasks: Sequence[Task], rows: Sequence[Encoding], task_id: int, pad_id: int
) -> list[Logits]:
    """The same as `row_logits`, computed by any function that runs batches."""
    token_level, columns = tasks[task_id].token_level, output_slices(tasks)[task_id]
    logits: dict[int, Logits] = {}
    for indices in batches_by_length(rows):
        batch = collate([rows[i] for i in indices], [task_id] * len(indices), token_level=token_level, pad_id=pad_id)
        outputs = run(batch)
        batch_logits = outputs.token if token_level else outputs.sentence
        assert batch_logits is not None, "a token-level batch was run without token logits"
        for row, index in enumerate(indices):
            values = batch_logits[row, : len(rows[index]), columns] if token_level else batch_logits[row, columns]
            logits[index] = values.numpy()
    return [logits[index] for index in range(len(rows))]


def batches_by_length(rows: Sequence[Encoding]) -> Iterator[list[int]]:
    """The indices of all rows, shortest first, in batches within the limits on rows and padded tokens."""
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        if batch and (len(batch) == _MAX_ROWS or (len(batch) + 1) * len(rows[index]) > _MAX_TOKENS):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def answer_tasks(
    network: Network, encoder: InputEncoder, data: Sequence[TaskData]
) -> Iterator[tuple[str, list[Answer]]]:
    """Each task's name with the answers to its validation examples, in their order."""
    for task_id, task_data in enumerate(data):
        inputs = [example.input for example in task_data.validation]
        yield task_data.task.name, answer_inputs(network, encoder, task_id, inputs)


def score_tasks(data: Sequence[TaskData], answers: Mapping[str, Sequence[Answer]]) -> dict[str, Scores]:
    """Every task's metrics from the answers of `answer_tasks`, the main metric first."""
    return {task_data.task.name: score_task(task_data, answers[task_data.task.name]) for task_data in data}


def score_network(
    network: Network, encoder: InputEncoder, data: Sequence[TaskData], answers: Mapping[str, Sequence[Answer]]
) -> dict[str, Scores]:
    """The metrics of `score_tasks`, and `text_f1` of tagging tasks: on their examples as running text."""
    return {
        each.task.name: score_with_text(network, encoder, task_id, each, answers[each.task.name])
        for task_id, each in enumerate(data)
    }


def score_with_text(
    network: Network, encoder: InputEncoder, task_id: int, task_data: TaskData, answers: Sequence[Answer]
) -> Scores:
    """A task's metrics from the answers to its validation examples, the main one first, and `text_f1` of a tagging task."""
    scores = score_task(task_data, answers)
    if task_data.task.kind is Kind.TAGGING:
        examples = [replace(each, input=running_text(each.input.given_words)) for each in task_data.validation]
        on_text = answer_inputs(network, encoder, task_id, [Input(example.input.text) for example in examples])
        scores |= score_task_on_text(task_data, examples, on_text)
    return scores


def evaluate_tasks(network: Network, encoder: InputEncoder, data: Sequence[TaskData]) -> dict[str, Scores]:
    """Every task's metrics on its validation examples, as in `score_network`."""
    return score_network(network, encoder, data, dict(answer_tasks(network, encoder, data)))
