"""Annealing from teachers to the right answers: at first the network learns what its teachers say, at last what is right.

Source: Clark et al., "BAM! Born-Again Multi-Task Networks for Natural Language Understanding", ACL 2019. Every loss but the
squared error is linear in its target, so the mean of two losses is the loss of the mean target; of the squared error the
gradient is the same.
"""

from __future__ import annotations

from collections import defaultdict

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
    by_task: dict[int, list[int]] = defaultdict(list)
    for index, example in enumerate(batch.examples):
        if example.taught is not None:
            by_task[example.task_id].append(index)
    annealed = list(losses)
    for task_id, indices in by_task.items():
        task = network.tasks[task_id]
        for index, logits in zip(indices, task_logits(network, outputs, batch, task_id, indices), strict=True):
            answer = torch.as_tensor(batch.examples[index].taught, dtype=torch.float32, device=logits.device)
            annealed[index] = progress * losses[index] + (1 - progress) * taught_loss(task, logits, answer)
    return torch.stack(annealed)


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
