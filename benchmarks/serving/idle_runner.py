"""The service with a backend that takes no time, to measure the cost of a request without the forward.

python -m benchmarks.serving.idle_runner       with POLYTASK_ variables, as `polytask serve`
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import patch

import torch

from polytask.model.batch import Batch
from polytask.model.heads import Outputs
from polytask.model.network import Network
from polytask.service.config.settings import Settings
from polytask.service.observability.logs import configure_logs
from polytask.service.single_process import serve


class IdleBackend:
    """Returns logits of zero at once."""

    name = "torch"
    device = "cpu"
    precision = "float32"
    is_async = False
    num_streams = 1

    def __init__(self, network: Network) -> None:
        self._widths = len(network.heads.sentence.bias), len(network.heads.token.bias)

    def run(self, batch: Batch) -> Outputs:
        """Zeros of the right shapes."""
        rows, length = batch.input_ids.shape
        sentence, token = self._widths
        return Outputs(torch.zeros(rows, sentence), torch.zeros(rows, length, token) if batch.token_level else None)

    def start(self, batch: Batch) -> Callable[[], Outputs]:
        """As `run`, when it is called."""
        return partial(self.run, batch)


@contextlib.contextmanager
def idle() -> Iterator[None]:
    """Within this block the torch backend computes nothing. Its golden answers are wrong, of course."""
    with (
        patch("polytask.service.backends.selection.TorchBackend", IdleBackend),
        patch("polytask.service.engine.build.check_goldens"),
    ):
        yield


if __name__ == "__main__":
    with idle():
        settings = Settings.from_environment({**os.environ, "POLYTASK_RUNNER": "torch"})
        configure_logs("service", settings.log_format)
        serve(settings)
