"""Validation scores measured through HTTP, compared with those that training measured.

    python -m benchmarks.serving.validation DATA [--url http://127.0.0.1:8000] [--model demo]

Every validation example of every task is sent to the running service; its answers are scored as training scores its
own. Exits with 1 if a metric differs by more than 0.002.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pydantic
from rich.console import Console
from rich.progress import track
from rich.table import Table

from polytask.model.answers import (
    Answer,
    ClassificationAnswer,
    MultilabelAnswer,
    MultipleChoiceAnswer,
    RankingAnswer,
    RegressionAnswer,
    SpanAnswer,
    TaggingAnswer,
)
from polytask.model.tasks import Kind
from polytask.model_store import DEFAULT_STORE
from polytask.model_store.manifest import read_manifest
from polytask.model_store.versions import resolve
from polytask.service.api.schemas import from_input
from polytask.training.data.examples import Example, TaskData
from polytask.training.data.version_data import validation_data
from polytask.training.evaluation.metrics import Scores, score_task

_TOLERANCE = 0.002
_INPUTS = 32

_ANSWERS: dict[Kind, Any] = {
    Kind.CLASSIFICATION: ClassificationAnswer,
    Kind.MULTILABEL: MultilabelAnswer,
    Kind.REGRESSION: RegressionAnswer,
    Kind.RANKING: RankingAnswer,
    Kind.MULTIPLE_CHOICE: MultipleChoiceAnswer,
    Kind.TAGGING: TaggingAnswer,
    Kind.SPAN: SpanAnswer,
}


def main() -> None:
    """Prints the table of both measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the data folder that the checkpoint was trained from")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="demo", help="the version that is served")
    options = parser.parse_args()
    folder = resolve(DEFAULT_STORE, options.model)
    trained = read_manifest(folder).metrics
    table = Table("task", "metric", "training", "HTTP", "difference", title=f"validation of {options.model}")
    worst = 0.0
    with httpx.Client(base_url=options.url, timeout=60) as client:
        for own in validation_data(folder, options.data):
            for metric, value in score_over_http(client, own).items():
                difference = value - trained[own.task.name][metric]
                worst = max(worst, abs(difference))
                table.add_row(
                    own.task.name, metric, f"{trained[own.task.name][metric]:.4f}", f"{value:.4f}", f"{difference:+.4f}"
                )
    Console().print(table, f"largest difference {worst:.5f}")
    sys.exit(worst > _TOLERANCE)


def score_over_http(client: httpx.Client, own: TaskData) -> Scores:
    """The task's metrics from the service's answers."""
    answers: list[Answer] = []
    adapter = pydantic.TypeAdapter(_ANSWERS[own.task.kind])
    chunks = list(_chunks(own.validation))
    for chunk in track(chunks, description=f"{own.task.name:12}"):
        inputs = [from_input(own.task, example.input) for example in chunk]
        response = client.post(f"/v1/tasks/{own.task.name}/predict", json={"inputs": inputs})
        response.raise_for_status()
        answers += [adapter.validate_python(answer) for answer in response.json()["answers"]]
    return score_task(own, answers)


def _chunks(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    for start in range(0, len(examples), _INPUTS):
        yield examples[start : start + _INPUTS]


if __name__ == "__main__":
    main()
