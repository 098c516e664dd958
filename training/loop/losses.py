"""Losses of a mixed batch: one loss per example, computed as its task's kind requires."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from polytask.model.batch import Batch, collate
from polytask.model.heads import Outputs
from polytask.model.network import Network
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import EncodedExample
from polytask.training.recipes.schema import Recipe


@dataclass(frozen=True, slots=True)
class ExampleBatch:
    """Examples and the batch of their rows; example i owns the rows `starts[i]` to `starts[i + 1]`."""

    examples: tuple[EncodedExample, ...]
    batch: Batch
    starts: tuple[int, ...]


def batch_examples(examples: Sequence[EncodedExample], tasks: Sequence[Task], pad_id: int) -> ExampleBatch:
    """The examples and the batch of all their rows, one example after another."""
    encodings = [encoding for example in examples for encoding in example.encodings]
    task_ids = [example.task_id for example in examples for _ in example.encodings]
    starts = [0]
    for example in examples:
        starts.append(starts[-1] + len(example.encodings))
    token_level = any(tasks[example.task_id].token_level for example in examples)
    return ExampleBatch(
        tuple(examples), collate(encodings, task_ids, token_level=token_level, pad_id=pad_id), tuple(starts)
    )


def example_losses(network: Network, outputs: Outputs, batch: ExampleBatch) -> Tensor:
    """The loss of each example, in order: [number of examples], float32.

    Classification, multiple choice, tagging and span: cross entropy (tagging: the mean over words; span: the mean
    of start and end). Multilabel: the sum of the labels' binary cross entropies. Ranking: the mean of the candidates'
    binary cross entropies. Regression: binary cross entropy against the value scaled to 0..1 in the task's range, or the
    squared error if the output is the value itself.
    """
    by_task: dict[int, list[int]] = defaultdict(list)
    for index, example in enumerate(batch.examples):
        by_task[example.task_id].append(index)
    losses: list[Tensor] = []
    order: list[int] = []
    for task_id, indices in by_task.items():
        logits = task_logits(network, outputs, batch, task_id, indices)
        losses.append(_task_losses(network.tasks[task_id], logits, [batch.examples[index].target for index in indices]))
        order.extend(indices)
    return torch.cat(losses)[torch.tensor(order, device=losses[0].device).argsort()]


def example_weights(
    examples: Sequence[EncodedExample], recipe: Recipe, starts: Sequence[float] | None = None
) -> list[float]:
    """The weight of each example, in order. The loss of a batch is the sum of weight times loss.

    `examples`: the whole batch. `starts[t]`: what the losses of task t are divided by, see `loss_start`. The weights make a mean over examples, or with `task_mean` a mean over the tasks present
    of each task's mean, as in the released CA-MTL code (Pilault et al., ICLR 2021). They are multiplied by the weights of
    tasks and examples.
    """
    counts = Counter(example.task_id for example in examples)
    weights = []
    for example in examples:
        sharing = len(counts) * counts[example.task_id] if recipe.losses.task_mean else len(examples)
        start = starts[example.task_id] if starts else 1.0
        weights.append(recipe.tasks[example.task_id].weight * example.weight / (sharing * start))
    return weights


def task_logits(
    network: Network, outputs: Outputs, batch: ExampleBatch, task_id: int, indices: Sequence[int]
) -> list[Tensor]:
    """The logits of one task for the examples at `indices`, float32.

    One tensor per example: [rows, outputs], or for a token-level task [kept words or context tokens, outputs].
    """
    columns = network.output_slices[task_id]
    logits = []
    for index in indices:
        start, stop = batch.starts[index], batch.starts[index + 1]
        if network.tasks[task_id].token_level:
            assert outputs.token is not None
            tokens = list(batch.examples[index].encodings[0].positions)
            logits.append(outputs.token[start, tokens, columns].float())
        else:
            logits.append(outputs.sentence[start:stop, columns].float())
    return logits


def _task_losses(task: Task, logits: list[Tensor], targets: list[object]) -> Tensor:
    device = logits[0].device
    match task.kind:
        case Kind.CLASSIFICATION:
            return functional.cross_entropy(torch.cat(logits), torch.tensor(targets, device=device), reduction="none")
        case Kind.MULTILABEL:
            expected = torch.tensor(targets, dtype=torch.float32, device=device)
            return functional.binary_cross_entropy_with_logits(torch.cat(logits), expected, reduction="none").sum(dim=1)
        case Kind.REGRESSION:
            assert task.value_range is not None
            low, high = task.value_range
            outputs, expected = torch.cat(logits)[:, 0], torch.tensor(targets, dtype=torch.float32, device=device)
            if task.raw_output:
                return (outputs - expected).square()
            scaled = (expected - low) / (high - low)
            return functional.binary_cross_entropy_with_logits(outputs, scaled, reduction="none")
        case Kind.RANKING:
            return torch.stack(
                [
                    functional.binary_cross_entropy_with_logits(
                        example_logits[:, 0], torch.tensor(target, dtype=torch.float32, device=device)
                    )
                    for example_logits, target in zip(logits, targets, strict=True)
                ]
            )
        case Kind.MULTIPLE_CHOICE:
            return torch.stack(
                [
                    functional.cross_entropy(example_logits[:, 0], torch.tensor(target, device=device))
                    for example_logits, target in zip(logits, targets, strict=True)
                ]
            )
        case Kind.TAGGING | Kind.SPAN:
            # A span's two outputs are each a choice among tokens; a word's outputs are a choice among labels.
            return torch.stack(
                [
                    functional.cross_entropy(
                        example_logits.T if task.kind is Kind.SPAN else example_logits,
                        torch.tensor(target, device=device),
                    )
                    for example_logits, target in zip(logits, targets, strict=True)
                ]
            )
