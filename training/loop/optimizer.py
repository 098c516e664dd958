"""AdamW over the trainable parameters, a learning rate that follows progress, and an average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from polytask.model.network import Network, backbone_parameters
from polytask.training.recipes.schema import OptimizerConfig


def make_optimizer(network: Network, config: OptimizerConfig) -> torch.optim.AdamW:
    """Four groups: backbone or added, matrices (decayed) or vectors (not). Each remembers its peak learning rate."""
    backbone = {id(parameter) for parameter in backbone_parameters(network.encoder)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in backbone, parameter.dim() > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "peak_lr": config.learning_rate if of_backbone else config.added_learning_rate,
                "weight_decay": config.weight_decay if matrix else 0.0,
            }
            for (of_backbone, matrix), parameters in groups.items()
        ],
        eps=1e-8,
        fused=True,
    )


def schedule(progress: float, warmup: float) -> float:
    """The share of the peak learning rate at `progress` (0 to 1): linear up to `warmup`, then linear to zero."""
    if progress < warmup:
        return progress / warmup
    return max(0.0, (1 - progress) / (1 - warmup)) if warmup < 1 else 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, progress: float, warmup: float) -> None:
    """Sets every group's learning rate for `progress`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * schedule(progress, warmup)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers, named `<parameter's place>.<what>`. Rates and decays follow from the recipe."""
    state = optimizer.state_dict()["state"]
    return {f"{place}.{name}": tensor for place, own in state.items() for name, tensor in own.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts `optimizer_tensors` back."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        place, name = key.split(".", 1)
        state.setdefault(int(place), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class WeightAverage:
    """The exponential moving average of the trainable weights, for evaluation; they themselves go on learning.

    After update n (from 0) the average keeps min(decay, (1 + n) / (10 + n)) of itself, so that it forgets the
    untrained weights quickly. With decay 0 it is the weights themselves and costs nothing.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self._decay = decay
        self._parameters = [parameter.detach() for parameter in parameters]
        self.weights = [parameter.clone() for parameter in self._parameters] if decay else []

    def update(self, updates: int) -> None:
        """Takes in the weights after update number `updates`, from 0."""
        if self.weights:
            kept = min(self._decay, (1 + updates) / (10 + updates))
            torch._foreach_lerp_(self.weights, self._parameters, 1 - kept)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the average's weights in the block, and its own again after it."""
        own = [parameter.clone() for parameter in self._parameters] if self.weights else []
        self.apply()
        try:
            yield
        finally:
            for parameter, weight in zip(self._parameters, own, strict=bool(own)):
                parameter.copy_(weight)

    def apply(self) -> None:
        """Gives the network the average's weights for good."""
        for parameter, weight in zip(self._parameters, self.weights, strict=bool(self.weights)):
            parameter.copy_(weight)
