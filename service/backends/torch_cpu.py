"""torch on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from polytask.model.batch import Batch
from polytask.model.heads import Outputs
from polytask.model.network import Network


class TorchBackend:
    """The network in float32, unchanged."""

    name = "torch"
    device = "cpu"
    precision = "float32"
    num_streams = 1
    is_async = False

    def __init__(self, network: Network) -> None:
        """Evaluates the task tables of the network, once."""
        self._network = network.eval()
        with torch.inference_mode():
            self._tables = self._network.condition()

    def run(self, batch: Batch) -> Outputs:
        with torch.inference_mode():
            outputs: Outputs = self._network(batch, self._tables)
        return outputs

    def start(self, batch: Batch) -> Callable[[], Outputs]:
        return partial(self.run, batch)
