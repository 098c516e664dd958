"""mosec: one worker process a task behind its Rust server, each with batches of its own."""

from __future__ import annotations

import os
from itertools import chain
from typing import Any

from mosec import Runtime, Server, Worker

from benchmarks.serving.rivals.classifiers import TASKS, THREADS, load

_MAX_BATCH, _MAX_WAIT_MS = 32, 5


class Classifier(Worker):
    """The classifier of the task that its environment names. Requests are batched; each may bring several texts."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = load(os.environ["TASK"], max(1, THREADS // len(TASKS)))

    def forward(self, data: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        """The answers of each request in the batch."""
        answers = iter(self.classify(list(chain.from_iterable(request["texts"] for request in data))))
        return [[next(answers) for _ in request["texts"]] for request in data]


def runtime(task: str) -> Runtime:
    """The worker process of a task."""
    return Runtime(Classifier, max_batch_size=_MAX_BATCH, max_wait_time=_MAX_WAIT_MS, timeout=60, env=[{"TASK": task}])


if __name__ == "__main__":
    server = Server()
    server.register_runtime({f"/{task}": [runtime(task)] for task in TASKS})
    server.run()
