"""Child process: the start of every process under the supervisor, and its link to the supervisor.

Standard input is the lifeline. It ends when the supervisor closes it or dies in any way, and the process then shuts
down. Standard output carries reports to the supervisor, one JSON object a line.
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
"""The folder of the metrics, inside the folder that the processes share."""

CANNOT_START = 2
"""Exit code: starting this process again would not help, unless it has been ready before."""


def engine_socket(folder: Path, number: int) -> Path:
    """The Unix socket of an engine."""
    return folder / f"engine-{number}.sock"


class SupervisorLink:
    """A child process's link to the supervisor."""

    def __init__(self) -> None:
        # Only reports go to standard output. What libraries print there goes to the log.
        self._reports = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)

    def report_ready(self) -> None:
        """Reports that this process is ready."""
        self._report(ready=True)

    def report_error(self, error: Exception) -> None:
        """Reports why this process ends."""
        self._report(error=str(error))

    def on_shutdown(self, callback: Callable[[], None]) -> None:
        """Calls `callback` from a thread when the supervisor ends this process or has died."""

        def wait() -> None:
            while os.read(_STDIN, 4096):
                pass
            callback()

        threading.Thread(target=wait, name="lifeline", daemon=True).start()

    def _report(self, **report: str | bool) -> None:
        os.write(self._reports, (json.dumps(report) + "\n").encode())


def run_child(name: str, folder: Path, main: Callable[[Settings, SupervisorLink, MetricStorage], None]) -> None:
    """Runs `main` as a process under the supervisor, with the settings in the environment.

    A StoreError or StartupError is reported, and the process exits with CANNOT_START.
    """
    supervisor = SupervisorLink()
    try:
        settings = Settings.from_environment(os.environ)
        configure_logs(name, settings.log_format)
        main(settings, supervisor, SharedStorage(folder / METRICS, name))
    except (StoreError, StartupError) as error:
        supervisor.report_error(error)
        sys.exit(CANNOT_START)
