"""Prediction metrics: labels and confidence are counted where the settings ask for it, and nowhere else."""

from __future__ import annotations

import httpx
import pytest

from polytask.model.tasks import answer_labels
from polytask.service.observability.metrics import Metrics
from tests.service.support.serving import serving
from tests.support import tiny


@pytest.fixture
def anyio_backend() -> str:
    """Tests that are coroutines run on asyncio."""
    return "asyncio"


def predicted(page: str) -> dict[str, float]:
    """The samples of the two series, by name and labels as on the page."""
    lines = (line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("polytask_prediction"))
    return {sample: float(value) for sample, value in lines}


def test_every_label_is_there_from_the_start_and_no_other() -> None:
    """The labels of a task are those of the checkpoint; tags `B-person` and `I-person` count as `person`."""
    found = predicted(Metrics(tiny.tasks(), predictions=True).page().decode())
    labels = {sample for sample in found if sample.startswith("polytask_predictions_total")}
    assert labels == {
        f'polytask_predictions_total{{label="{label}",task="{task.name}"}}'
        for task in tiny.tasks()
        for label in answer_labels(task)
    }


def test_by_default_nothing_is_counted() -> None:
    """Without the option the page has no prediction metrics."""
    assert not predicted(Metrics(tiny.tasks()).page().decode())


@pytest.mark.anyio
async def test_an_answer_counts_its_label_and_its_probability() -> None:
    """An answer counts its label and its probability; raw scores count the label only."""
    async with serving(prediction_metrics=True) as service:
        (label,) = labels(await service.predict("mood", "cat"))
        body = {"inputs": ["cat"], "options": {"raw_scores": True}}
        assert labels(await service.client.post("/v1/tasks/mood/predict", json=body)) == [label]
        assert await service.metric(f'polytask_predictions_total{{label="{label}",task="mood"}}') == 2
        assert await service.metric('polytask_prediction_confidence_ratio_count{task="mood"}') == 1


def labels(response: httpx.Response) -> list[str]:
    """The labels that a classification answered."""
    return [answer["label"] for answer in response.json()["answers"]]


@pytest.mark.anyio
async def test_answers_of_every_kind_count() -> None:
    """Answers of every kind of task count their confidence, except regressions, which have none."""
    async with serving(prediction_metrics=True) as service:
        for task in tiny.tasks():
            shown = (await service.client.get(f"/v1/tasks/{task.name}")).json()["example"]
            reply = await service.client.post(f"/v1/tasks/{task.name}/predict", json=shown)
            assert reply.status_code == 200
        found = predicted((await service.client.get("/metrics")).text)
    counted = {
        task.name
        for task in tiny.tasks()
        if f'polytask_prediction_confidence_ratio_count{{task="{task.name}"}}' in found
    }
    assert counted == {task.name for task in tiny.tasks() if task.kind.value != "regression"}
