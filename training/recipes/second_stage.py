"""Second stage of a recipe: each task's own parameters are tuned alone, after all tasks were trained together."""

from __future__ import annotations

from pydantic import Field

from polytask.model.config import NetworkConfig, Product
from polytask.training.recipes.architecture import Layers, LayerSet, Section, named_layers


class SecondStageConfig(Section):
    """Tuning of each task's row of the task tables, its head and a low-rank residual, while all else stays fixed."""

    tasks: tuple[str, ...] = Field(default=(), description="names of the tasks to tune; by default all")
    rank: int = Field(
        default=8, ge=0, description="rank of the residuals; with 0 only rows of the task tables and heads are tuned"
    )
    layers: Layers = Field(default=LayerSet.UPPER, description="layers with residuals")
    products: tuple[Product, ...] = Field(
        default=(Product.EXPAND, Product.CONTRACT),
        min_length=1,
        description="products of these layers that get residuals",
    )
    passes: int = Field(default=4, ge=1, description="most passes over a task's training examples")
    examples: int = Field(default=60_000, ge=1, description="most examples drawn of a task, whatever `passes` says")
    learning_rate: float = Field(default=2e-3, gt=0, description="highest learning rate of all that is tuned")
    batch_rows: int = Field(default=32, ge=1, description="most rows in a batch")

    def check_layers(self, network: NetworkConfig) -> None:
        """Raises ValueError if the network lacks a layer that is to get a residual."""
        layers = named_layers(self.layers, network)
        if any(not 0 <= layer < network.num_layers for layer in layers):
            raise ValueError(f"second_stage.layers {list(layers)} names a layer outside 0..{network.num_layers - 1}")
