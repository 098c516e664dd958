"""An engine process whose device waits while the file GATE exists, or gives wrong answers if WRONG is set.

It hangs after HUNG_S seconds of waiting, if that is set, and else never.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from unittest.mock import patch

from polytask.model.batch import Batch
from polytask.model.heads import Outputs
from polytask.model.network import Network
from polytask.service.backends.torch_cpu import TorchBackend
from polytask.service.processes.engine import main
from tests.support import tiny


class _Gated(TorchBackend):
    def __init__(self, network: Network) -> None:
        super().__init__(tiny.network(seed=1) if "WRONG" in os.environ else network)
        self._gate = Path(os.environ["GATE"])

    def run(self, batch: Batch) -> Outputs:
        outputs = super().run(batch)
        while self._gate.exists():
            time.sleep(0.005)
        return outputs


if __name__ == "__main__":
    with (
        patch("polytask.service.backends.selection.TorchBackend", _Gated),
        patch("polytask.service.engine.worker.HUNG_S", float(os.environ.get("HUNG_S", "inf"))),
        # Much more often than that, also on a slow machine.
        patch("polytask.service.engine.device_loop.BEAT_S", 0.1),
        # A probe that waits at the gate would be counted among what a test holds there.
        patch("polytask.service.engine.device_loop.PROBE_S", float("inf")),
    ):
        main()
