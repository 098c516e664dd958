"""Unfolding: a network in which some tasks read tuned rows of their own, and answer as before until these are tuned."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from polytask.model.config import Product
from polytask.model.encoder import Tables
from polytask.model.network import Network


@torch.no_grad()
def with_tuned_rows(
    network: Network,
    task_ids: Collection[int],
    *,
    rank: int = 0,
    layers: Sequence[int] = (),
    products: Sequence[Product] = (),
) -> Network:
    """A copy of the network in which each of the tasks reads a tuned row that no other task reads.

    Rows start at the tables' present values, with residuals that add nothing, so no answer changes. The residuals are of
    `rank` on the `products` of the `layers`; a network that has residuals gets the larger rank, and the layers and
    products of both.
    """
    config, joint_rows = network.config, network.config.joint_rows or len(network.tasks)
    task_rows, unfolded_ids = list(config.task_rows or range(joint_rows)), list[int]()
    for task_id in sorted(task_ids):
        if task_rows[task_id] < joint_rows or task_rows.count(task_rows[task_id]) > 1:
            task_rows[task_id] = joint_rows + config.num_tuned_rows + len(unfolded_ids)
            unfolded_ids.append(task_id)
    residual_layers = {*config.residual_layers, *(layers if rank else ())}
    residual_products = {*config.residual_products, *(products if rank else ())}
    unfolded_config = replace(
        config,
        joint_rows=joint_rows,
        task_rows=tuple(task_rows),
        residual_rank=max(config.residual_rank, rank),
        residual_layers=tuple(sorted(residual_layers)),
        residual_products=tuple(product for product in Product if product in residual_products),
    )
    unfolded = Network(unfolded_config, network.tasks).to(next(network.parameters()).device)
    _copy(network, unfolded)
    _fill(unfolded, network.condition(), unfolded_ids, first_row=config.num_tuned_rows)
    return unfolded.train(network.training)


def _copy(network: Network, unfolded: Network) -> None:
    """Copies what both networks have, with tuned rows into those of the new one's shapes."""
    new = dict(unfolded.named_parameters())
    for name, parameter in new.items():
        if name.startswith("tuned_rows.") and name.endswith("_up"):
            parameter.zero_()
    for name, old in network.named_parameters():
        if name.startswith("tuned_rows."):
            new[name][: len(old)] = _widened(old, new[name])
        else:
            new[name].copy_(old)
        new[name].requires_grad_(old.requires_grad)


def _fill(unfolded: Network, tables: Tables, task_ids: Sequence[int], first_row: int) -> None:
    """Sets the rows from `first_row` on to those of the tasks in `tables`."""

    def start(name: str, table: Tensor) -> Tensor:
        if not name.endswith(("_down", "_up")):
            assert unfolded.tuned_rows is not None
            unfolded.tuned_rows.get_parameter(name)[first_row:] = table[list(task_ids)]
        return table

    if task_ids:
        tables.map_named(start)


def _widened(old: Tensor, new: Tensor) -> Tensor:
    """The old rows of a table in the shape of the new ones: a higher rank is filled with zeros."""
    missing = [(0, wanted - had) for wanted, had in zip(new.shape[1:], old.shape[1:], strict=True)]
    return functional.pad(old, [pad for pair in reversed(missing) for pad in pair])
