"""The loss of every example of a mixed batch, each in the way of its task's kind."""

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
    """Lays the rows of the examples one after another."""
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
    """The loss of each example, in their order: [number of examples], float32.

    Classification, multiple choice, tagging and span: cross entropy (tagging: the mean over words; span: the mean
    of start and end). Multilabel: the sum of the labels' binary cross entropies. Ranking: binary cross entropy of
    each candidate, averaged. Regression: binary cross entropy against the value's place in the task's range, or where
    the output is the value itself, the squared error.
    """
    by_task: dict[int, list[int]] = defaultdict(list)
    for place, example in enumerate(batch.examples):
        by_task[example.task_id].append(place)
    losses: list[Tensor] = []
    order: list[int] = []
    for task_id, places in by_task.items():
        logits = task_logits(network, outputs, batch, task_id, places)
        losses.append(_task_losses(network.tasks[task_id], logits, [batch.examples[place].target for place in places]))
        order.extend(places)
    return torch.cat(losses)[torch.tensor(order, device=losses[0].device).argsort()]


def example_weights(examples: Sequence[EncodedExample], recipe: Recipe) -> list[float]:
    """What each example's loss counts in the loss of its batch, which is the sum of the products; in their order.

    `examples`: the whole batch. The mean over examples, or with `task_mean` over the tasks present of each one's mean,
    as the released CA-MTL code has it (Pilault et al., ICLR 2021); the weights of tasks and examples on top.
    """
    counts = Counter(example.task_id for example in examples)
    weights = []
    for example in examples:
        sharing = len(counts) * counts[example.task_id] if recipe.losses.task_mean else len(examples)
        weights.append(recipe.tasks[example.task_id].weight * example.weight / sharing)
    return weights


def task_logits(
    network: Network, outputs: Outputs, batch: ExampleBatch, task_id: int, places: Sequence[int]
) -> list[Tensor]:
    """The task's own logits of the examples at `places`, float32.

    One tensor per example: [rows, outputs], or for a token-level task [kept words or context tokens, outputs].
    """
    columns = network.output_slices[task_id]
    logits = []
    for place in places:
        start, stop = batch.starts[place], batch.starts[place + 1]
        if network.tasks[task_id].token_level:
            assert outputs.token is not None
            tokens = list(batch.examples[place].encodings[0].positions)
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
            wanted = torch.tensor(targets, dtype=torch.float32, device=device)
            return functional.binary_cross_entropy_with_logits(torch.cat(logits), wanted, reduction="none").sum(dim=1)
        case Kind.REGRESSION:
            assert task.value_range is not None
            low, high = task.value_range
            found, wanted = torch.cat(logits)[:, 0], torch.tensor(targets, dtype=torch.float32, device=device)
            if task.raw_output:
                return (found - wanted).square()
            place = (wanted - low) / (high - low)
            return functional.binary_cross_entropy_with_logits(found, place, reduction="none")
        case Kind.RANKING:
            return torch.stack(
                [
                    functional.binary_cross_entropy_with_logits(
                        own[:, 0], torch.tensor(target, dtype=torch.float32, device=device)
                    )
                    for own, target in zip(logits, targets, strict=True)
                ]
            )
        case Kind.MULTIPLE_CHOICE:
            return torch.stack(
                [
                    functional.cross_entropy(own[:, 0], torch.tensor(target, device=device))
                    for own, target in zip(logits, targets, strict=True)
                ]
            )
        case Kind.TAGGING | Kind.SPAN:
            # A span's two outputs are each a choice among tokens; a word's outputs are a choice among labels.
            return torch.stack(
                [
                    functional.cross_entropy(
                        own.T if task.kind is Kind.SPAN else own, torch.tensor(target, device=device)
                    )
                    for own, target in zip(logits, targets, strict=True)
                ]
            )
