"""BentoML: one service with a batchable method a task, as many workers as the framework starts by itself (one)."""

from __future__ import annotations

from typing import Any

import bentoml

from benchmarks.serving.rivals.classifiers import TASKS, load


def classifier(task: str) -> Any:
    """The method that serves a task: batched by the framework, over the texts of all requests."""

    def classify(self: Classifiers, texts: list[str]) -> list[dict[str, Any]]:
        return self.classifiers[task](texts)

    classify.__name__ = task
    return bentoml.api(
        classify, route=f"/{task}", batchable=True, batch_dim=0, max_batch_size=32, max_latency_ms=60_000
    )


@bentoml.service(traffic={"timeout": 60, "max_concurrency": 1024}, logging={"access": {"enabled": False}})
class Classifiers:
    """All tasks in one process."""

    def __init__(self) -> None:
        self.classifiers = {task: load(task) for task in TASKS}

    for _task in TASKS:
        locals()[_task] = classifier(_task)
