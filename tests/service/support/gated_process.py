"""A service in a process of its own whose device waits on command: `shut` and `open`, a line each on stdin.

Where SHUT is set it waits from the start. It hangs after HUNG_S seconds of waiting, if that is set, and else never; a restart is said to
help after RESTART_S more.
"""

from __future__ import annotations

import os
import sys
import threading
from unittest.mock import patch

from polytask.model.network import Network
from polytask.service.backends.torch_cpu import TorchBackend
from polytask.service.config.settings import Settings
from polytask.service.observability.logs import configure_logs
from polytask.service.single_process import serve
from tests.service.support.doubles import GatedBackend


def gated(network: Network) -> GatedBackend:
    """The gated backend that the service gets in place of the real one."""
    backend = GatedBackend(TorchBackend(network))
    if "SHUT" in os.environ:
        backend.shut()

    def obey() -> None:
        for line in sys.stdin:
            {"shut": backend.shut, "open": backend.open}[line.strip()]()
            sys.stdout.write(line)
            sys.stdout.flush()

    threading.Thread(target=obey, daemon=True).start()
    return backend


if __name__ == "__main__":
    with (
        patch("polytask.service.backends.selection.TorchBackend", gated),
        patch("polytask.service.engine.worker.HUNG_S", float(os.environ.get("HUNG_S", "inf"))),
        # Much more often than that, also on a slow machine.
        patch("polytask.service.engine.device_loop.BEAT_S", 0.1),
        patch("polytask.service.engine.worker.RESTART_S", float(os.environ.get("RESTART_S", "inf"))),
        patch("polytask.service.engine.device_loop.PROBE_S", float("inf")),
    ):
        settings = Settings.from_environment(os.environ)
        configure_logs("service", settings.log_format)
        serve(settings)
