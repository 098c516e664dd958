"""Tuned rows: rows of the task tables that are stored instead of computed, each tuned for one task on a fixed trunk.

A tuned row also adds a residual of low rank to chosen products: x W + x down up (Hu et al., "LoRA", ICLR 2022), gathered
by task like the rest of the row, so that a batch still mixes all tasks.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from polytask.model.conditioning import Conditional
from polytask.model.config import NetworkConfig, Product
from polytask.model.encoder import Tables


class TunedRows(Conditional):
    """The tuned rows, K of them: a parameter [K, ...] for each task table, and the residuals' `down` and `up`.

    Parameters have the names of `Tables.map_named`. A task that reads a computed row has a residual of zero.
    """

    def __init__(self, config: NetworkConfig, computed: Tables, num_computed: int) -> None:
        """`computed`: the rows that the hypernetwork computes, for the shapes of the tables; their number."""
        super().__init__()
        self._num_computed, self._num_tuned = num_computed, config.num_tuned_rows
        self._rows_of_tasks = config.task_rows or tuple(range(num_computed))
        self._residuals = {
            layer: config.residual_products if layer in config.residual_layers else ()
            for layer in range(config.num_layers)
        }
        computed.map_named(self._add)
        for layer, products in self._residuals.items():
            for product in products:
                size, outer = product_shape(config, product)
                # As in LoRA: `up` is zero, so a new residual changes nothing, and `down` lets it learn from the start.
                down = torch.randn(self._num_tuned, size, config.residual_rank) * size**-0.5
                up = torch.zeros(self._num_tuned, config.residual_rank, outer)
                for half, tensor in (("down", down), ("up", up)):
                    self.register_parameter(f"layer_{layer}_{product}_{half}", nn.Parameter(tensor))

    def _add(self, name: str, computed: Tensor) -> Tensor:
        self.register_parameter(name, nn.Parameter(torch.zeros(self._num_tuned, *computed.shape[1:])))
        return computed

    def forward(self, computed: Tables) -> Tables:
        """The tables of all tasks, [T, ...], from the computed rows."""
        rows_T = torch.tensor(self._rows_of_tasks, device=next(self.parameters()).device)

        def of_tasks(name: str, table: Tensor) -> Tensor:
            return torch.cat([table, self.get_parameter(name)])[rows_T]

        def residual(name: str) -> Tensor:
            tuned = self.get_parameter(name)
            return torch.cat([tuned.new_zeros(self._num_computed, *tuned.shape[1:]), tuned])[rows_T]

        tables = computed.map_named(of_tasks)
        layers = (
            replace(
                layer,
                residuals={
                    product: (residual(f"layer_{index}_{product}_down"), residual(f"layer_{index}_{product}_up"))
                    for product in self._residuals[index]
                },
            )
            for index, layer in enumerate(tables.layers)
        )
        return replace(tables, layers=tuple(layers))


def product_shape(config: NetworkConfig, product: Product) -> tuple[int, int]:
    """Sizes of the input and the output of a product."""
    size, inner = config.hidden_size, config.intermediate_size
    match product:
        case Product.EXPAND:
            return size, inner
        case Product.CONTRACT:
            return inner, size
        case _:
            return size, size
