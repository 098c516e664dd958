"""Ray Serve: one application a task, each a replica with batches of its own."""

from __future__ import annotations

import signal
from itertools import chain
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.serving.rivals.classifiers import PORT, TASKS, THREADS, load


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 0})
class Classifier:
    """The classifier of one task. Requests are batched; each may bring several texts."""

    def __init__(self, task: str, threads: int) -> None:
        self.classify = load(task, threads)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
    async def batched(self, requests: list[list[str]]) -> list[list[dict[str, Any]]]:
        """The answers of each request in the batch."""
        answers = iter(self.classify(list(chain.from_iterable(requests))))
        return [[next(answers) for _ in texts] for texts in requests]

    async def __call__(self, request: Request) -> list[dict[str, Any]]:
        """One request."""
        answers: list[dict[str, Any]] = await self.batched((await request.json())["texts"])
        return answers


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=THREADS, object_store_memory=100_000_000)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    for task in TASKS:
        application = Classifier.bind(task, max(1, THREADS // len(TASKS)))  # type: ignore[attr-defined]
        serve.run(application, name=task, route_prefix=f"/{task}")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    serve.shutdown()
    ray.shutdown()
