"""From training to serving: a process that has only the version's folder gives the answers that training measured."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from rich.console import Console

from polytask.model.answers import Answer
from polytask.model.encoding import Input, InputEncoder
from polytask.model.network import Network
from polytask.model.tasks import Kind
from polytask.model_store.load import load, verify
from polytask.model_store.manifest import Manifest
from polytask.service.api.schemas import from_input
from polytask.service.backends.torch_cpu import TorchBackend
from polytask.service.config.settings import Settings
from polytask.service.single_process import assemble
from polytask.training import pipeline
from polytask.training.data.examples import TaskData
from polytask.training.evaluation.evaluate import answer_inputs
from polytask.training.evaluation.metrics import score_answers
from polytask.training.preparation import PreparedRun
from polytask.training.publishing.publish import publish
from tests.service.support.serving import until
from tests.training.support import toy
from tests.training.support.answers import answer_alone, assert_same_answers, assert_same_fields

# 480 examples in batches of 16 rows make about 60 steps.
_RECIPE = {"length": {"examples": 480, "batch_rows": 16, "batch_tokens": 512}}

Inputs = dict[str, list[Input]]
Answers = dict[str, list[Answer]]


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run: its version, and the network and encoder still in memory."""

    version: Path
    manifest: Manifest
    network: Network
    encoder: InputEncoder
    data: Sequence[TaskData]

    def inputs(self) -> Inputs:
        """The validation inputs of every task."""
        return {task_data.task.name: [example.input for example in task_data.validation] for task_data in self.data}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A toy run of all seven kinds, by `run_recipe` as the command line calls it."""
    folder = tmp_path_factory.mktemp("contract")
    fields = toy.fields(toy.write_backbone(folder / "backbone"), **_RECIPE)
    fields["tasks"][0]["examples"] = [{"text": "the cat is good"}, {"text": "a bad cat in paris"}]
    recipe = folder / "toy.toml"
    recipe.write_text(toy.to_toml(fields), encoding="utf-8")
    kept: list[PreparedRun] = []

    def keep_and_publish(prepared: PreparedRun, *rest: object) -> object:
        kept.append(prepared)
        return publish(prepared, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "publish", keep_and_publish)
        torch.set_num_threads(1)
        data = toy.write_data(folder / "data")
        version = pipeline.run_recipe(recipe, data, folder / "store", Console(file=io.StringIO()), folder / "run")
    (prepared,) = kept
    return Trained(version, verify(version), prepared.network, prepared.encoder, prepared.data)


@pytest.fixture(scope="module")
def new_process(trained: Trained) -> tuple[Answers, Answers]:
    """The answers of a process that has only the version's folder, to validation inputs and to golden inputs."""
    goldens: Inputs = {name: [] for name in toy.TASKS.values()}
    for golden in trained.manifest.goldens:
        goldens[golden.task].append(golden.input)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as processes:
        found = [processes.submit(answer_alone, trained.version, inputs) for inputs in (trained.inputs(), goldens)]
        return found[0].result(), found[1].result()


@pytest.fixture(scope="module")
def served(new_process: tuple[Answers, Answers]) -> Answers:
    """The answers of that process to the validation inputs."""
    return new_process[0]


def test_all_kinds_were_trained(trained: Trained) -> None:
    """The version has a task of every kind, and most of them beat the trivial answer."""
    assert {task.kind for task in trained.manifest.tasks} == set(Kind)
    gains = [
        scores[metric] - trained.manifest.baselines[name][metric]
        for name, scores in trained.manifest.metrics.items()
        for metric in [next(iter(scores))]
    ]
    assert sum(gain > 0.05 for gain in gains) >= 4


def test_a_new_process_answers_as_training_did(trained: Trained, served: Answers) -> None:
    """Each input alone gets the answer that the trained network in memory gives it in a batch with all others."""
    for task_id, (name, inputs) in enumerate(trained.inputs().items()):
        expected = answer_inputs(trained.network, trained.encoder, task_id, inputs)
        assert_same_answers(served[name], expected, tolerance=1e-4)
        assert len({str(answer) for answer in expected}) > 3


def test_the_manifests_metrics_are_those_of_the_answers(trained: Trained, served: Answers) -> None:
    """Scoring the new process's answers gives every metric in the manifest but that of running text, and no others."""
    for task_data in trained.data:
        scores = score_answers(task_data.task, task_data.validation, served[task_data.task.name])
        metrics = trained.manifest.metrics[task_data.task.name]
        assert scores == pytest.approx({k: v for k, v in metrics.items() if k != "text_f1"}, abs=1e-6)
    assert set(trained.manifest.metrics) == set(served)


def test_measuring_again_gives_the_same_metrics(trained: Trained) -> None:
    """Evaluating the stored version on the data of its recipe gives the metrics in its manifest."""
    data = trained.version.parent.parent.parent / "data"
    again = pipeline.evaluate_version(trained.version, data, Console(file=io.StringIO()))
    assert again == trained.manifest.metrics


def test_golden_answers_are_repeated(trained: Trained, new_process: tuple[Answers, Answers]) -> None:
    """A new process repeats the golden answers in the manifest, which include the recipe's examples."""
    goldens = trained.manifest.goldens
    assert {golden.task for golden in goldens} == set(toy.TASKS.values())
    assert [golden.input.text for golden in goldens[:2]] == ["the cat is good", "a bad cat in paris"]
    for name, task_answers in new_process[1].items():
        expected = [golden.answer for golden in goldens if golden.task == name]
        assert_same_fields([asdict(answer) for answer in task_answers], expected, tolerance=1e-4)


async def _over_http(version: Path, inputs: dict[str, list[Any]]) -> dict[str, Any]:
    """Serves the version and sends all inputs at once, each in its own request."""
    checkpoint = load(version)
    worker, app = assemble(checkpoint, Settings(), TorchBackend(checkpoint.network))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        await until(lambda: worker.ready or worker.failure is not None)

        async def ask(task: str, item: Any) -> Any:
            response = await client.post(f"/v1/tasks/{task}/predict", json={"inputs": [item]})
            assert response.status_code == 200, response.text
            (answer,) = response.json()["answers"]
            assert answer.pop("tokens") > 0
            answer.pop("dropped_tokens")
            return answer

        return {
            name: await asyncio.gather(*(ask(name, item) for item in task_inputs))
            for name, task_inputs in inputs.items()
        }


def test_the_service_answers_as_training_did(trained: Trained, served: Answers) -> None:
    """Over HTTP every answer of every kind is the one that training measured."""
    tasks = {task_data.task.name: task_data.task for task_data in trained.data}
    wire = {
        name: [from_input(tasks[name], item) for item in task_inputs] for name, task_inputs in trained.inputs().items()
    }
    answers = asyncio.run(_over_http(trained.version, wire))
    for name, task_answers in answers.items():
        assert_same_fields(task_answers, [asdict(answer) for answer in served[name]], tolerance=1e-4)
