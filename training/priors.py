"""Priors: heads that begin at the frequencies of the right answers, so that no update is spent on learning these.

Source: the initial bias of rare classes of Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from polytask.model.network import Network
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import EncodedExample


@torch.no_grad()
def start_at_prior(network: Network, examples: Sequence[Sequence[EncodedExample]]) -> None:
    """Sets the biases of all heads. `examples[t]` are the training examples of task t."""
    for task_id, (task, columns, own) in enumerate(zip(network.tasks, network.output_slices, examples, strict=True)):
        bias = network.head_of(task_id).bias
        bias[columns] = torch.as_tensor(prior(task, own), dtype=bias.dtype, device=bias.device)


def prior(task: Task, examples: Sequence[EncodedExample]) -> NDArray[np.float64]:
    """The outputs, [outputs], of the best constant answer to the examples with their weights; choices and spans have none.

    Classification and tagging: the logarithm of each label's share. Multilabel and ranking: the logit of a label's share or
    of the mean relevance. Regression: the logit of the mean place in the range, or the mean value itself. Shares are as if
    every answer had been seen once more, so that none is 0.
    """
    weights = np.array([example.weight for example in examples])
    match task.kind:
        case Kind.CLASSIFICATION:
            return _log_shares(np.array([example.target for example in examples]), weights, task.num_outputs)
        case Kind.TAGGING:
            lengths = [len(example.target) for example in examples]
            labels = np.concatenate([example.target for example in examples])
            return _log_shares(labels, np.repeat(weights, lengths), task.num_outputs)
        case Kind.MULTILABEL:
            return _logit(np.array([example.target for example in examples]))
        case Kind.RANKING:
            return _logit(np.concatenate([example.target for example in examples])[:, None])
        case Kind.REGRESSION:
            values = np.array([[float(example.target)] for example in examples])
            if task.raw_output:
                return np.asarray(values.mean(axis=0))
            assert task.value_range is not None
            low, high = task.value_range
            return _logit((values - low) / (high - low))
        case Kind.MULTIPLE_CHOICE | Kind.SPAN:
            return np.zeros(task.num_outputs)


def _log_shares(labels: NDArray[np.int64], weights: NDArray[np.float64], num_labels: int) -> NDArray[np.float64]:
    counts = np.bincount(labels, weights, num_labels) + 1
    return np.asarray(np.log(counts / counts.sum()))


def _logit(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logit of the mean over axis 0."""
    yes = shares.sum(axis=0) + 0.5
    return np.asarray(np.log(yes / (len(shares) + 1 - yes)))
