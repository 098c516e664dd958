"""Temperature: the number by which a task's logits are divided, so that its probabilities are shares of right answers.

Temperature scaling (Guo et al., "On calibration of modern neural networks", ICML 2017, arXiv:1706.04599), by task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from polytask.model.answers import Logits
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import EncodedExample

LOWEST, HIGHEST = 0.25, 8.0
FEWEST_EXAMPLES = 50
"""Examples below which the temperature stays 1."""

_Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Choices:
    """Choices of one out of several. `logits`: [choices, options], -inf where there are fewer. `right`: [choices]."""

    logits: _Values
    right: NDArray[np.int64]

    def loss(self, temperature: float) -> float:
        """The mean negative log-likelihood."""
        scaled = self.logits / temperature
        return float(np.mean(logsumexp(scaled, axis=1) - scaled[np.arange(len(self.right)), self.right]))


@dataclass(frozen=True, slots=True)
class _Decisions:
    """Decisions between yes and no. `logits`, `right`: [decisions], the latter from 0 to 1."""

    logits: _Values
    right: _Values

    def loss(self, temperature: float) -> float:
        """The mean negative log-likelihood."""
        scaled = self.logits / temperature
        return float(np.mean(np.logaddexp(0.0, scaled) - self.right * scaled))


def fit_temperature(task: Task, examples: Sequence[EncodedExample], logits: Sequence[Sequence[Logits]]) -> float:
    """The temperature of the least negative log-likelihood, from 0.25 to 8; 1 for a regression or below 50 examples.

    `logits[i]`: those of each row of `examples[i]`. No decision changes by it: not the order of labels, candidates, tags and
    spans; thresholds have to be set after it.
    """
    if task.kind is Kind.REGRESSION or len(examples) < FEWEST_EXAMPLES:
        return 1.0
    evidence = _evidence(task, examples, logits)
    if not evidence.logits.size:
        return 1.0
    # The loss is convex in 1 / temperature, so the only minimum is found.
    bounds = math.log(LOWEST), math.log(HIGHEST)
    found = minimize_scalar(lambda log: evidence.loss(math.exp(log)), bounds=bounds, method="bounded")
    temperature = math.exp(float(found.x))
    return temperature if evidence.loss(temperature) < evidence.loss(1.0) else 1.0


def _evidence(
    task: Task, examples: Sequence[EncodedExample], logits: Sequence[Sequence[Logits]]
) -> _Choices | _Decisions:
    targets = [example.target for example in examples]
    rows = [own[0] for own in logits]
    match task.kind:
        case Kind.CLASSIFICATION:
            return _choices(rows, targets)
        case Kind.MULTIPLE_CHOICE:
            return _choices([np.concatenate(own) for own in logits], targets)
        case Kind.TAGGING:
            words = [
                word
                for example, row in zip(examples, rows, strict=True)
                for word in row[list(example.encodings[0].positions)]
            ]
            return _choices(words, [tag for target in targets for tag in target])
        case Kind.SPAN:
            ends = [
                end
                for example, row in zip(examples, rows, strict=True)
                for end in row[list(example.encodings[0].positions)].T
            ]
            return _choices(ends, [position for target in targets for position in target])
        case _:  # multilabel and ranking
            flat = [value for own in logits for row in own for value in row]
            return _Decisions(np.array(flat, float), np.array([value for target in targets for value in target], float))


def _choices(logits: Sequence[Logits], right: Sequence[Any]) -> _Choices:
    padded = np.full((len(logits), max(map(len, logits), default=0)), -np.inf)
    for row, values in zip(padded, logits, strict=True):
        row[: len(values)] = values
    return _Choices(padded, np.array(right, dtype=np.int64))
