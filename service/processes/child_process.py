"""What all processes under the supervisor have in common: logs, metrics, reports to it, and that they do not outlive it.

Standard input is the lifeline: it ends when the supervisor says so or dies, however it dies, and with it the process
has to end. Standard output carries reports, a line of JSON each.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from polytask.model_store.errors import StoreError
from polytask.service.config.settings import Settings
from polytask.service.errors import StartupError
from polytask.service.observability.logs import configure_logs
from polytask.service.observability.metric_storage import MetricStorage, SharedStorage

_STDIN, _STDOUT, _STDERR = 0, 1, 2

METRICS = "metrics"
"""The folder of the metrics in the folder that the processes share."""

CANNOT_START = 2
"""The exit code of a process for which starting it again would change nothing, unless it has been ready before."""


def engine_socket(folder: Path, number: int) -> Path:
    """Where an engine listens."""
    return folder / f"engine-{number}.sock"


class SupervisorLink:
    """The supervisor, as a process that it has started sees it."""

    def __init__(self) -> None:
        # Only reports go to standard output; what is printed there by whatever library goes to the log.
        self._reports = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)

    def report_ready(self) -> None:
        """Tells it that this process does its work from now on."""
        self._report(ready=True)

    def report_error(self, error: Exception) -> None:
        """Tells it why this process ends."""
        self._report(error=str(error))

    def on_shutdown(self, end: Callable[[], None]) -> None:
        """Calls `end`, from a thread, when it wants this process to end, or has died itself."""

        def wait() -> None:
            while os.read(_STDIN, 4096):
                pass
            end()

        threading.Thread(target=wait, name="lifeline", daemon=True).start()

    def _report(self, **what: str | bool) -> None:
        os.write(self._reports, (json.dumps(what) + "\n").encode())


def run_child(name: str, folder: Path, main: Callable[[Settings, SupervisorLink, MetricStorage], None]) -> None:
    """Runs `main` as a process under the supervisor, with the settings in the environment.

    What it raises is reported and ends the process with CANNOT_START.
    """
    parent = SupervisorLink()
    try:
        settings = Settings.from_environment(os.environ)
        configure_logs(name, settings.log_format)
        main(settings, parent, SharedStorage(folder / METRICS, name))
    except (StoreError, StartupError) as error:
        parent.report_error(error)
        sys.exit(CANNOT_START)
