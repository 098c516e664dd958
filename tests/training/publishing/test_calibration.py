"""Calibration of a task: what it changes in a network, and what it leaves."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from polytask.model.network import Network
from polytask.model.tasks import Kind
from polytask.training.data.examples import TaskData
from polytask.training.evaluation.evaluate import answers_from, input_logits
from polytask.training.publishing.calibration import Calibration, calibrate_task, num_calibration_rows
from polytask.training.publishing.calibration_effect import answer_with_effects
from polytask.training.runs.progress import rows_counted
from tests.training.conftest import Workshop

KINDS = [kind for kind in Kind if kind is not Kind.REGRESSION]


def _task(workshop: Workshop, kind: Kind) -> tuple[int, TaskData]:
    """The id and data of the workshop's task of a kind. Its training examples are those to choose by."""
    (found,) = [(index, each) for index, each in enumerate(workshop.data) if each.task.kind is kind]
    return found[0], replace(found[1], selection=found[1].train)


def _network(workshop: Workshop) -> Network:
    """A network that is far too sure."""
    network = workshop.network()
    with torch.no_grad():
        for head in (network.heads.sentence, network.heads.token):
            head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(1)) * 2)
    return network


def _without_scores(value: Any) -> Any:
    """An answer without its probabilities."""
    if isinstance(value, dict):
        return {key: _without_scores(each) for key, each in value.items() if key not in {"score", "scores"}}
    return [_without_scores(each) for each in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Kind.MULTILABEL])
def test_temperature_changes_no_decision(workshop: Workshop, kind: Kind) -> None:
    """With a temperature alone, all answers are the same but for their probabilities, and these are less sure."""
    network, (task_id, data) = _network(workshop), _task(workshop, kind)
    inputs = [example.input for example in data.validation]
    encodings, before = input_logits(network, workshop.encoder, task_id, inputs)
    found = calibrate_task(network, workshop.encoder, task_id, data)
    assert found.temperature > 1.2
    _, after = input_logits(network, workshop.encoder, task_id, inputs)
    for own, other in zip(before, map(found.undo, after), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-3)
    if not found.class_bias:
        answers = [answers_from(data.task, inputs, encodings, logits) for logits in (before, after)]
        assert _without_scores([asdict(each) for each in answers[0]]) == _without_scores(
            [asdict(each) for each in answers[1]]
        )


@pytest.mark.parametrize("kind", Kind)
def test_only_the_tasks_own_slice_changes(workshop: Workshop, kind: Kind) -> None:
    """Everything but the slice of the task's head and its thresholds stays, to the bit; the slice is exact in the precision."""
    network, (task_id, data) = _network(workshop), _task(workshop, kind)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    tasks = network.tasks
    calibrate_task(network, workshop.encoder, task_id, data, torch.float16)
    level = "token" if data.task.token_level else "sentence"
    columns = network.output_slices[task_id]
    for name, tensor in network.state_dict().items():
        if name in {f"heads.{level}.weight", f"heads.{level}.bias"}:
            own = tensor[columns].clone()
            assert kind is Kind.REGRESSION or torch.equal(own, own.half().float())
            tensor[columns] = before[name][columns]
        assert torch.equal(tensor, before[name]), name
    changed = [index for index, (old, new) in enumerate(zip(tasks, network.tasks, strict=True)) if old != new]
    assert changed == ([task_id] if kind is Kind.MULTILABEL else [])


@pytest.mark.parametrize("kind", Kind)
def test_without_examples_to_choose_by_the_head_stays(workshop: Workshop, kind: Kind) -> None:
    """Without such examples nothing but thresholds is chosen."""
    network, (task_id, data) = _network(workshop), _task(workshop, kind)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert calibrate_task(network, workshop.encoder, task_id, replace(data, selection=())) == Calibration()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("kind", Kind)
def test_the_rows_that_it_reads_are_known_before(workshop: Workshop, kind: Kind) -> None:
    """The number of rows for the progress bar is that of the forwards."""
    network, (task_id, data) = _network(workshop), _task(workshop, kind)
    counted: list[int] = []
    with rows_counted(network, counted.append):
        calibrate_task(network, workshop.encoder, task_id, data)
    assert sum(counted) == num_calibration_rows(data)


def test_the_effect_is_measured_with_and_without_it(workshop: Workshop) -> None:
    """Each task has its error of calibration before and after; a bias that was put in by hand is taken out again."""
    network, (task_id, data) = _network(workshop), _task(workshop, Kind.CLASSIFICATION)
    plain, _ = answer_with_effects(network, workshop.encoder, [data], [Calibration()])
    bias = (50.0, 0.0)
    with torch.no_grad():
        network.heads.sentence.bias[network.output_slices[task_id]] += torch.tensor(bias)
    _, effects = answer_with_effects(network, workshop.encoder, [data], [Calibration(bias)])
    effect = effects[data.task.name]
    right = [
        getattr(answer, "label") == data.task.labels[each.target]  # noqa: B009 - an answer of any kind
        for answer, each in zip(plain["mood"], data.validation, strict=True)
    ]
    assert effect.score_before == pytest.approx(np.mean(right))
    assert effect.score == pytest.approx(0.5)
    assert effect.class_bias == dict(zip(data.task.labels, bias, strict=True))
    assert effect.ece_before is not None
    assert effect.ece == pytest.approx(0.5)
