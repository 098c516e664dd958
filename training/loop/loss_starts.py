"""Loss starts: the loss of a task before anything is learnt, by which its losses may be divided.

Dividing by log C: Aghajanyan et al., "Muppet: Massive Multi-task Representations with Pre-Finetuning", EMNLP 2021. The
other kinds are ours.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import EncodedExample

_MULTILABEL_START = 0.2
"""The mean over labels once their frequencies are known, for labels that apply to about one text in twenty."""
_LEAST = 1e-3
"""Of a regression; if all its values are the same, there is nothing to divide by."""


def loss_start(task: Task, examples: Sequence[EncodedExample]) -> float:
    """The loss of one of the task's examples for a network that knows nothing of it.

    Classification and tagging: log C with C labels. Multiple choice and span: the mean of log C with C choices or places of
    the context. Ranking: log 2. Multilabel: 0.2 for each label, whose losses are summed. Regression: the mean loss of the
    mean value, less the loss of the right values, which a cross entropy has even for them; of a squared error the variance.
    """
    match task.kind:
        case Kind.CLASSIFICATION | Kind.TAGGING:
            return math.log(task.num_outputs)
        case Kind.MULTIPLE_CHOICE:
            return statistics.fmean(math.log(max(2, len(example.encodings))) for example in examples)
        case Kind.SPAN:
            return statistics.fmean(math.log(max(2, len(example.encodings[0].positions))) for example in examples)
        case Kind.RANKING:
            return math.log(2)
        case Kind.MULTILABEL:
            return _MULTILABEL_START * task.num_outputs
        case Kind.REGRESSION:
            return max(_LEAST, _regression_start(task, [float(example.target) for example in examples]))


def _regression_start(task: Task, values: Sequence[float]) -> float:
    if task.raw_output:
        return statistics.pvariance(values)
    assert task.value_range is not None
    low, high = task.value_range
    places = [(value - low) / (high - low) for value in values]
    return _entropy(statistics.fmean(places)) - statistics.fmean(map(_entropy, places))


def _entropy(share: float) -> float:
    return -sum(part * math.log(part) for part in (share, 1 - share) if part > 0)
