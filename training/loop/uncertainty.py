"""Uncertainty: the network's entropy on examples, and the selection of training examples by it (MT-Uncertainty).

Source: Pilault et al., "Conditionally Adaptive Multi-Task Learning", ICLR 2021, which scores classification by the
entropy of the predicted classes. Policies for the other kinds: tagging, the mean over words; multiple choice and
span, the entropy over choices and over start and end tokens; multilabel and ranking, the mean over the yes-or-no
decisions. Regression has no entropy: see `RegressionPolicy`.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from polytask.model.heads import Outputs
from polytask.model.network import Network
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import EncodedExample
from polytask.training.loop.losses import ExampleBatch, batch_examples, task_logits
from polytask.training.recipes.schema import RegressionPolicy, UncertaintyForm

Entropy = float | None
"""Normalised entropy: 0 (sure) to 1 (uniform); None for regression."""


def normalised_entropy(task: Task, logits: Tensor) -> Tensor | None:
    """Entropy of one example's predictions divided by its largest possible value: 0 (sure) to 1 (uniform); a scalar.

    `logits` as in `task_logits`. None for regression.
    """
    match task.kind:
        case Kind.CLASSIFICATION | Kind.TAGGING:
            return _categorical(logits).mean()
        case Kind.MULTIPLE_CHOICE | Kind.SPAN:
            return _categorical(logits.T).mean()
        case Kind.MULTILABEL | Kind.RANKING:
            flat = logits.flatten()
            return _categorical(torch.stack([flat, torch.zeros_like(flat)], dim=1)).mean()
        case Kind.REGRESSION:
            return None


def _categorical(logits: Tensor) -> Tensor:
    """Entropy over the last axis, divided by log(number of choices); a single choice has entropy 0."""
    if logits.shape[-1] == 1:
        return torch.zeros(logits.shape[:-1], device=logits.device)
    log_probabilities = logits.log_softmax(dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1) / math.log(logits.shape[-1])


@torch.no_grad()
def batch_entropies(network: Network, outputs: Outputs, batch: ExampleBatch) -> list[Entropy]:
    """The entropy of each example of a batch, in order, from the batch's outputs."""
    by_task: dict[int, list[int]] = defaultdict(list)
    for index, example in enumerate(batch.examples):
        by_task[example.task_id].append(index)
    entropies: dict[int, Entropy] = {}
    for task_id, indices in by_task.items():
        task = network.tasks[task_id]
        logits = task_logits(network, outputs, batch, task_id, indices)
        if task.kind is Kind.CLASSIFICATION:  # in one call, because most tasks are of this kind
            entropies |= zip(indices, _categorical(torch.cat(logits)).tolist(), strict=True)
            continue
        for index, example_logits in zip(indices, logits, strict=True):
            entropy = normalised_entropy(task, example_logits)
            entropies[index] = None if entropy is None else float(entropy)
    return [entropies[index] for index in range(len(batch.examples))]


@torch.no_grad()
def example_entropies(
    network: Network, examples: Sequence[EncodedExample], pad_id: int, batch_rows: int, *, bf16: bool = False
) -> list[Entropy]:
    """The entropy of each example in eval mode. The network's mode is restored; random states do not change."""
    was_training = network.training
    network.eval()
    order = sorted(range(len(examples)), key=lambda i: examples[i].longest)
    entropies: dict[int, Entropy] = {}
    device = next(network.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        tables = network.condition()
        for start in range(0, len(order), batch_rows):
            indices = order[start : start + batch_rows]
            batch = batch_examples([examples[i] for i in indices], network.tasks, pad_id)
            outputs = network(batch.batch.to(device), tables)
            entropies |= zip(indices, batch_entropies(network, outputs, batch), strict=True)
    network.train(was_training)
    return [entropies[index] for index in range(len(examples))]


def select_examples(
    task_ids: Sequence[int],
    entropies: Sequence[Entropy],
    count: int,
    form: UncertaintyForm,
    regression: RegressionPolicy,
) -> list[int]:
    """The indices, ascending, of the `count` candidates to train on, or of all if there are fewer.

    The candidates must be in random order: of equal scores the earlier one is chosen, and `RegressionPolicy.SHARE`
    selects the examples without a score among the first `count`, a random number of them.
    """
    scores = uncertainty(task_ids, entropies, form)
    measured = [score for score in scores if score is not None]
    unscored: list[int] = []
    if regression is RegressionPolicy.SHARE:
        unscored = [index for index, score in enumerate(scores[:count]) if score is None]
    else:
        median = statistics.median(measured) if measured else 0.0
        scores = [median if score is None else score for score in scores]
    scored = [(-score, index) for index, score in enumerate(scores) if score is not None]
    return sorted(unscored + [index for _, index in sorted(scored)[: count - len(unscored)]])


def uncertainty(task_ids: Sequence[int], entropies: Sequence[Entropy], form: UncertaintyForm) -> list[Entropy]:
    """U(x) of each candidate; None if it has no entropy. In the paper's form the most uncertain task has mean 1."""
    means = task_means(task_ids, entropies)
    greatest = max(means.values(), default=0.0) or 1.0
    factors = {t: (mean if form is UncertaintyForm.RELEASED else 1.0) / greatest for t, mean in means.items()}
    return [
        None if entropy is None else entropy * factors[task_id]
        for task_id, entropy in zip(task_ids, entropies, strict=True)
    ]


def task_means(task_ids: Sequence[int], entropies: Sequence[Entropy]) -> Mapping[int, float]:
    """The mean entropy of each task that has one."""
    by_task: dict[int, list[float]] = defaultdict(list)
    for task_id, entropy in zip(task_ids, entropies, strict=True):
        if entropy is not None:
            by_task[task_id].append(entropy)
    return {task_id: statistics.fmean(values) for task_id, values in by_task.items()}
