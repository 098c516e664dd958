"""How unsure the network is of an example: the scores by which MT-Uncertainty chooses.

Source: Pilault et al., "Conditionally Adaptive Multi-Task Learning", ICLR 2021. The paper scores classification;
the other kinds score the mean normalised entropy of their decisions. Regression has no entropy: its policy so far
is the median of all other scores, so its examples come neither first nor last. With three or more tasks they are
drawn rarely, as the highest scores of the others fill the batch; other policies will follow.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from model.network import Network
from model.tasks import Kind, Task
from training.examples import EncodedExample
from training.losses import batch_examples, task_logits


def normalised_entropy(task: Task, logits: Tensor) -> Tensor | None:
    """Entropy of one example's predictions over its greatest possible value: 0 (sure) to 1 (uniform); a scalar.

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
def score_examples(network: Network, examples: Sequence[EncodedExample], pad_id: int, batch_rows: int) -> list[float]:
    """U(x) of each example. Scored in eval mode, whatever mode the network is in; random state is not touched.

    U(x) = H(x) / max_t mean_x H(x) with H the normalised entropy, so that the least sure task has mean 1. The paper
    divides by the greatest mean before normalising: another constant, the same choice.
    """
    was_training = network.training
    network.eval()
    order = sorted(range(len(examples)), key=lambda i: examples[i].longest)
    entropies: list[float | None] = [None] * len(examples)
    tables = network.condition()
    device = next(network.parameters()).device
    for start in range(0, len(order), batch_rows):
        places = order[start : start + batch_rows]
        batch = batch_examples([examples[i] for i in places], network.tasks, pad_id)
        outputs = network(batch.batch.to(device), tables)
        for row, place in enumerate(places):
            task_id = examples[place].task_id
            (logits,) = task_logits(network, outputs, batch, task_id, [row])
            entropy = normalised_entropy(network.tasks[task_id], logits)
            entropies[place] = None if entropy is None else float(entropy)
    network.train(was_training)
    return uncertainty([example.task_id for example in examples], entropies)


def uncertainty(task_ids: Sequence[int], entropies: Sequence[float | None]) -> list[float]:
    """U(x) from normalised entropies; None (regression) becomes the median of all other scores."""
    by_task: dict[int, list[float]] = defaultdict(list)
    for task_id, entropy in zip(task_ids, entropies, strict=True):
        if entropy is not None:
            by_task[task_id].append(entropy)
    means = [sum(values) / len(values) for values in by_task.values()]
    greatest = max(means, default=0.0) or 1.0
    known = [entropy / greatest for entropy in entropies if entropy is not None]
    median = statistics.median(known) if known else 1.0
    return [median if entropy is None else entropy / greatest for entropy in entropies]
