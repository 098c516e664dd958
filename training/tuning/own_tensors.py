"""Own tensors: what belongs to one task alone, its tuned row and its slice of the heads, read from and put into a network."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor

from polytask.model.network import Network


def own_tensors(network: Network, task_id: int) -> dict[str, Tensor]:
    """Copies of the task's tuned row, by the names of `TunedRows`, and of `head.weight` and `head.bias`."""
    return {name: tensor.detach().clone() for name, tensor in _views(network, task_id).items()}


@torch.no_grad()
def put_own_tensors(network: Network, task_id: int, tensors: Mapping[str, Tensor]) -> None:
    """Puts the result of `own_tensors` into a network in which the task reads a tuned row. Raises KeyError or RuntimeError
    for tensors of another network.
    """
    for name, view in _views(network, task_id).items():
        view.copy_(tensors[name])


def _views(network: Network, task_id: int) -> dict[str, Tensor]:
    assert network.tuned_rows is not None
    row = network.config.task_rows[task_id] - network.config.joint_rows
    assert row >= 0, "the task reads a row that is computed"
    columns, head = network.output_slices[task_id], network.head_of(task_id)
    rows = ((name, parameter[row]) for name, parameter in network.tuned_rows.named_parameters())
    slices = ((f"head.{name}", parameter[columns]) for name, parameter in head.named_parameters())
    return dict(chain(rows, slices))
