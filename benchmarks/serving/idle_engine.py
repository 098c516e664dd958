"""Engine process whose backend takes no time: `python -m benchmarks.serving.idle_engine FOLDER NUMBER`, as `polytask.service.processes.engine`."""

from __future__ import annotations

import os

from benchmarks.serving.idle_runner import idle
from polytask.service.processes.engine import main

if __name__ == "__main__":
    os.environ["POLYTASK_RUNNER"] = "torch"
    with idle():
        main()
