"""AdamW over the trainable parameters, and a learning rate that warms up and decays with progress."""

from __future__ import annotations

import torch
from torch import nn

from model.network import Network, backbone_parameters
from training.config import OptimizerConfig


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
