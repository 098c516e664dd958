"""A service in a process of its own whose device waits on command: `shut` and `open`, a line each on stdin.

Where SHUT is set it waits from the start.
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
    with patch("polytask.service.backends.selection.TorchBackend", gated):
        settings = Settings.from_environment(os.environ)
        configure_logs("service", settings.log_format)
        serve(settings)
