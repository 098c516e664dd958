"""Best state: the weights with the best mean score on selection, and whether the run goes on getting better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class BestState:
    """The best weights so far, by a score that is given after each evaluation.

    With a patience of 0 nothing is kept, and a run never ends early.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], patience: int) -> None:
        """`patience`: the number of evaluations in a row without a better score after which the run should end."""
        self._parameters = [parameter.detach() for parameter in parameters]
        self._patience = patience
        self._score: float | None = None
        self._without_better = 0
        self.examples: int | None = None
        """Number of examples after which the weights were so; None if none are kept."""
        self.weights: list[Tensor] = []

    @property
    def is_exhausted(self) -> bool:
        """Whether the run should end."""
        return 0 < self._patience <= self._without_better

    def add(self, score: float, examples: int) -> None:
        """Adds the score of the present weights. Of equal ones the later are kept: they were trained for longer.

        An equal score is no step back, as of a head that has not yet learnt its rare label, unless it is perfect.
        """
        if not self._patience:
            return
        is_better = self._score is None or score > self._score
        is_equal = score == self._score
        self._without_better = 0 if is_better or (is_equal and score < 1) else self._without_better + 1
        if is_better or is_equal:
            self._score, self.examples = score, examples
            self.weights = self.weights or [torch.empty_like(parameter) for parameter in self._parameters]
            for weight, parameter in zip(self.weights, self._parameters, strict=True):
                weight.copy_(parameter)

    @torch.no_grad()
    def apply(self) -> None:
        """Gives the network the best weights, if any are kept."""
        if self.weights:
            for parameter, weight in zip(self._parameters, self.weights, strict=True):
                parameter.copy_(weight)

    def state(self) -> dict[str, Any]:
        """Everything but the weights, as JSON values."""
        return {"score": self._score, "without_better": self._without_better, "examples": self.examples}

    def restore(self, state: Mapping[str, Any], weights: Sequence[Tensor]) -> None:
        """Restores a `state` with its weights."""
        self._score, self._without_better = state["score"], state["without_better"]
        self.examples, self.weights = state["examples"], [weight.to(self._device) for weight in weights]

    @property
    def _device(self) -> torch.device:
        return self._parameters[0].device
