"""Optimiser: AdamW over the trainable parameters, the learning rate schedule, and an average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from polytask.model.network import Network, backbone_parameters
from polytask.training.recipes.schema import OptimizerConfig


def make_optimizer(network: Network, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with a group for each peak learning rate of backbone or added weights, matrices (decayed) and vectors (not)."""
    rates = _backbone_rates(network, config)
    groups: dict[tuple[float | None, bool], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            groups.setdefault((rates.get(id(parameter)), parameter.dim() > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "peak_lr": config.added_learning_rate if rate is None else rate,
                "weight_decay": config.weight_decay if matrix else 0.0,
            }
            for (rate, matrix), parameters in groups.items()
        ],
        eps=1e-8,
        fused=True,
    )


def _backbone_rates(network: Network, config: OptimizerConfig) -> dict[int, float]:
    """The peak learning rate of each of the backbone's parameters, by its id.

    Layer-wise rates: Howard and Ruder, "ULMFiT", 2018; the uppermost layer has the recipe's own. What belongs to no layer,
    the embeddings, stands below the lowest.
    """
    layers = network.encoder.layers
    lowest = config.learning_rate * config.layer_decay ** len(layers)
    rates = {id(parameter): lowest for parameter in backbone_parameters(network.encoder)}
    for above, layer in enumerate(reversed(layers)):
        rate = config.learning_rate * config.layer_decay**above
        rates |= {id(parameter): rate for parameter in backbone_parameters(layer)}
    return rates


def schedule(progress: float, warmup: float) -> float:
    """The factor of the peak learning rate at `progress` (0 to 1): rises linearly until `warmup`, then falls to zero."""
    if progress < warmup:
        return progress / warmup
    return max(0.0, (1 - progress) / (1 - warmup)) if warmup < 1 else 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, progress: float, warmup: float) -> None:
    """Sets every group's learning rate for `progress`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * schedule(progress, warmup)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state, named `<index of the parameter>.<name>`. Rates and decays follow from the recipe."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, tensors in state.items() for name, tensor in tensors.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restores the result of `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class WeightAverage:
    """Exponential moving average of the trainable weights, for evaluation. Training continues with the weights.

    After update n (from 0) the decay is min(decay, (1 + n) / (10 + n)), so that the untrained weights are forgotten
    quickly. With decay 0 the average is the weights themselves and costs nothing.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self._decay = decay
        self._parameters = [parameter.detach() for parameter in parameters]
        self.weights = [parameter.clone() for parameter in self._parameters] if decay else []

    def update(self, updates: int) -> None:
        """Adds the weights after update number `updates`, from 0."""
        if self.weights:
            decay = min(self._decay, (1 + updates) / (10 + updates))
            torch._foreach_lerp_(self.weights, self._parameters, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Gives the network the averaged weights within the block."""
        trained = [parameter.clone() for parameter in self._parameters] if self.weights else []
        self.apply()
        try:
            yield
        finally:
            for parameter, weight in zip(self._parameters, trained, strict=bool(trained)):
                parameter.copy_(weight)

    def apply(self) -> None:
        """Gives the network the averaged weights."""
        for parameter, weight in zip(self._parameters, self.weights, strict=bool(self.weights)):
            parameter.copy_(weight)
