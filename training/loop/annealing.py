"""Annealing from teachers to the right answers: at first the network learns what its teachers say, at last what is right.

Source: Clark et al., "BAM! Born-Again Multi-Task Networks for Natural Language Understanding", ACL 2019. Every loss but the
squared error is linear in its target, so the mean of two losses is the loss of the mean target; of the squared error the
gradient is the same.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from polytask.model.heads import Outputs
from polytask.model.network import Network
from polytask.model.tasks import Kind, Task
from polytask.training.loop.losses import ExampleBatch, task_logits


def anneal(losses: Tensor, network: Network, outputs: Outputs, batch: ExampleBatch, progress: float) -> Tensor:
    """The losses of the batch's examples, [examples], for those with teachers against a target between both answers.

    It is (1 - progress) * loss against the teachers + progress * loss. `losses`: those against the right answers, in order.
    `progress`: the finished part of the run, 0 to 1.
    """
    answers = _answers(batch, losses.device)
    by_task: dict[int, list[int]] = defaultdict(list)
    for index in answers:
        by_task[batch.examples[index].task_id].append(index)
    annealed = list(losses)
    for task_id, indices in by_task.items():
        logits = task_logits(network, outputs, batch, task_id, indices)
        for index, own in zip(indices, logits, strict=True):
            taught = taught_loss(network.tasks[task_id], own, answers[index])
            annealed[index] = progress * losses[index] + (1 - progress) * taught
    return torch.stack(annealed)


def _answers(batch: ExampleBatch, device: torch.device) -> dict[int, Tensor]:
    """The teachers' answers by the index of their example, in float32, moved to the device at once."""
    answers = {index: each.taught for index, each in enumerate(batch.examples) if each.taught is not None}
    if not answers:
        return {}
    flat = torch.from_numpy(np.concatenate([each.ravel() for each in answers.values()], dtype=np.float32)).to(device)
    parts = torch.split(flat, [each.size for each in answers.values()])
    return {index: part.view(each.shape) for (index, each), part in zip(answers.items(), parts, strict=True)}


def taught_loss(task: Task, logits: Tensor, answer: Tensor) -> Tensor:
    """The loss of one example against its teachers' answer, which has the shape of the logits; see `EncodedExample`."""
    match task.kind:
        case Kind.CLASSIFICATION | Kind.TAGGING:
            return -(answer * logits.log_softmax(dim=1)).sum(dim=1).mean()
        case Kind.MULTIPLE_CHOICE | Kind.SPAN:
            return -(answer * logits.log_softmax(dim=0)).sum(dim=0).mean()
        case Kind.MULTILABEL:
            return functional.binary_cross_entropy_with_logits(logits, answer, reduction="sum")
        case Kind.REGRESSION if task.raw_output:
            return (logits - answer).square().sum()
        case Kind.REGRESSION | Kind.RANKING:
            return functional.binary_cross_entropy_with_logits(logits, answer)
