"""LitServe: one LitAPI a task, each with a path, a worker process and batches of its own."""

# Annotations stay objects: the framework looks at that of a request.

from itertools import chain
from typing import Any

import litserve

from benchmarks.serving.rivals.classifiers import PORT, TASKS, THREADS, load


class Classifier(litserve.LitAPI):
    """The classifier of one task. Requests are batched; each may bring several texts."""

    def __init__(self, task: str) -> None:
        super().__init__(max_batch_size=32, batch_timeout=0.005, api_path=f"/{task}")
        self.task = task

    def setup(self, device: str) -> None:  # noqa: ARG002, the framework's signature
        """Loads the model, in the worker's process."""
        self.classify = load(self.task, max(1, THREADS // len(TASKS)))

    def decode_request(self, request) -> list[str]:  # type: ignore[no-untyped-def]  # noqa: ANN001, a type here would be a schema
        """The texts of a request."""
        return list(request["texts"])

    def batch(self, inputs: list[list[str]]) -> list[list[str]]:
        """As they are."""
        return inputs

    def predict(self, x: list[list[str]]) -> list[list[dict[str, Any]]]:
        """The answers of each request in the batch."""
        answers = iter(self.classify(list(chain.from_iterable(x))))
        return [[next(answers) for _ in texts] for texts in x]

    def unbatch(self, output: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
        """As they are."""
        return output

    def encode_response(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As it is."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer([Classifier(task) for task in TASKS], accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=PORT, num_api_servers=1, generate_client_file=False, log_level="warning")
