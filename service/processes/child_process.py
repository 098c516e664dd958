"""Child process: the start of every process under the supervisor, and its link to the supervisor.

Standard input is the lifeline. It ends when the supervisor closes it or dies in any way, and the process then shuts
down: at once while it starts, later when it has answered what it has accepted. Standard output carries reports to the
supervisor, one JSON object a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from polytask.model_store.errors import StoreError
from polytask.service.config.settings import Settings
from polytask.service.errors import StartupError
from polytask.service.observability.logs import configure_logs
from polytask.service.observability.metric_storage import MetricStorage, SharedStorage

_STDIN, _STDOUT, _STDERR = 0, 1, 2

_MAX_ERROR = 16_384
"""Characters of an error that are reported. What an engine found wrong may be as long as a task's labels together."""

MAX_REPORT = 2**20
"""Bytes of a report, whatever its characters are in JSON."""

METRICS = "metrics"
"""The folder of the metrics, inside the folder that the processes share."""

SHUTDOWN_MARGIN_S = 15
"""Seconds that shutdown may take beyond `drain_s` and the longest deadline. Processes left after it are killed."""

CANNOT_START = 2
"""Exit code: starting this process again would not help, unless it has been ready before."""


def engine_socket(folder: Path, number: int) -> Path:
    """The Unix socket of an engine."""
    return folder / f"engine-{number}.sock"


class SupervisorLink:
    """A child process's link to the supervisor. Until `on_shutdown` is called, the end of the lifeline ends the process."""

    def __init__(self) -> None:
        # Only reports go to standard output. What libraries print there goes to the log.
        self._reports = os.dup(_STDOUT)
        self._lock = threading.Lock()
        self._shut_down: Callable[[], None] | None = None
        self._limit_s = 0.0
        os.dup2(_STDERR, _STDOUT)
        # A supervisor that does not read must hold up nothing.
        os.set_blocking(self._reports, False)
        threading.Thread(target=self._watch_lifeline, name="lifeline", daemon=True).start()

    def report_ready(self) -> None:
        """Reports that this process is ready."""
        self._report(ready=True)

    def report_alive(self) -> None:
        """Reports that this process goes on. After `report_ready` to be called every second, or the process is killed."""
        self._report(alive=True)

    def report_error(self, error: Exception) -> None:
        """Reports why this process ends."""
        message = str(error)
        self._report(error=message if len(message) <= _MAX_ERROR else f"{message[:_MAX_ERROR]}…")

    def on_shutdown(self, callback: Callable[[], None], settings: Settings) -> None:
        """Calls `callback` from a thread when the supervisor ends this process or has died.

        Whatever hangs then, the process ends when the longest shutdown that these settings allow is over.
        """
        self._limit_s = settings.drain_s + settings.deadline_s + SHUTDOWN_MARGIN_S
        self._shut_down = callback

    def _watch_lifeline(self) -> None:
        while os.read(_STDIN, 4096):
            pass
        if self._shut_down is None:
            os._exit(0)  # it has accepted nothing
        self._shut_down()
        time.sleep(self._limit_s)
        os._exit(1)

    def _report(self, **report: str | bool) -> None:
        line = (json.dumps(report) + "\n").encode()
        assert len(line) <= MAX_REPORT
        # OSError: the supervisor has gone, and so does this process.
        with self._lock, contextlib.suppress(OSError):
            while line:
                try:
                    line = line[os.write(self._reports, line) :]
                except BlockingIOError:
                    if "alive" in report:
                        return
                    select.select([], [self._reports], [])


def run_child(name: str, folder: Path, main: Callable[[Settings, SupervisorLink, MetricStorage], None]) -> None:
    """Runs `main` as a process under the supervisor, with the settings in the environment.

    A StoreError or StartupError is reported, and the process exits with CANNOT_START.
    """
    # A terminal that closes tells its whole process group. The supervisor decides what follows.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    supervisor = SupervisorLink()
    try:
        settings = Settings.from_environment(os.environ)
        configure_logs(name, settings.log_format)
        main(settings, supervisor, SharedStorage(folder / METRICS, name))
    except (StoreError, StartupError) as error:
        supervisor.report_error(error)
        sys.exit(CANNOT_START)
