"""An engine process that cannot start, and says so at great length."""

from __future__ import annotations

import sys
from pathlib import Path

from polytask.service.config.settings import Settings
from polytask.service.errors import StartupError
from polytask.service.observability.metric_storage import MetricStorage
from polytask.service.processes.child_process import SupervisorLink, run_child


def refuse(_: Settings, __: SupervisorLink, ___: MetricStorage) -> None:
    """Raises StartupError with more than a pipe or a stream reader holds, in characters that JSON escapes."""
    raise StartupError("wrong answers: " + "\U0001f600" * 200_000)


if __name__ == "__main__":
    run_child("engine-0", Path(sys.argv[1]), refuse)
