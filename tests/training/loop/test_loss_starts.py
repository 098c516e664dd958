"""Loss starts: what a network that knows nothing loses."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch

from polytask.model.heads import Outputs
from polytask.model.tasks import Kind
from polytask.training.data.examples import EncodedExample
from polytask.training.loop.loss_starts import loss_start
from polytask.training.loop.losses import batch_examples, example_losses, example_weights
from polytask.training.recipes.schema import Recipe
from tests.training.conftest import Workshop
from tests.training.support import toy
from tests.training.support.runs import start


def _task_id(workshop: Workshop, kind: Kind) -> int:
    return next(task_id for task_id, own in enumerate(workshop.data) if own.task.kind is kind)


def _losses(workshop: Workshop, task_id: int, output: float) -> float:
    """The mean loss of the task's examples if all outputs are `output`."""
    network = workshop.network()
    batch = batch_examples(workshop.examples[task_id], network.tasks, workshop.encoder.pad_id)
    rows, length = batch.batch.input_ids.shape
    sentence = torch.full((rows, network.heads.sentence.bias.shape[0]), output)
    outputs = Outputs(sentence, torch.full((rows, length, network.heads.token.bias.shape[0]), output))
    return float(example_losses(network, outputs, batch).mean())


@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.TAGGING, Kind.MULTIPLE_CHOICE, Kind.SPAN, Kind.RANKING])
def test_it_is_the_loss_of_equal_outputs(workshop: Workshop, kind: Kind) -> None:
    """Where one answer of several is right, a task starts at the mean loss of a network whose outputs are all the same."""
    task_id = _task_id(workshop, kind)
    expected = _losses(workshop, task_id, output=0.0)
    assert loss_start(workshop.data[task_id].task, workshop.examples[task_id]) == pytest.approx(expected, rel=1e-5)


def test_labels_by_themselves_start_alike(workshop: Workshop) -> None:
    """A multilabel task starts at the same loss for each of its labels, however many there are."""
    task = workshop.data[_task_id(workshop, Kind.MULTILABEL)].task
    labels = tuple("abcdefgh")
    more = replace(task, labels=labels, thresholds=(0.5,) * len(labels))
    assert loss_start(more, []) / len(labels) == pytest.approx(loss_start(task, []) / len(task.labels))


def test_a_regression_starts_at_what_can_be_learnt(workshop: Workshop) -> None:
    """A place in a range starts at the loss of the mean place above that of the right places; a value at its variance."""
    task_id = _task_id(workshop, Kind.REGRESSION)
    task, examples = workshop.data[task_id].task, workshop.examples[task_id]
    assert task.value_range is not None
    low, high = task.value_range
    places = torch.tensor([(example.target - low) / (high - low) for example in examples])
    least = torch.nn.functional.binary_cross_entropy(places, places).item()
    start_of_places = _losses(workshop, task_id, output=torch.logit(places.mean()).item()) - least
    assert loss_start(task, examples) == pytest.approx(start_of_places, rel=1e-4)
    values = [example.target for example in examples]
    assert loss_start(replace(task, raw_output=True), examples) == pytest.approx(statistics.pvariance(values))
    assert loss_start(task, examples[:1]) > 0, "a single value has nothing to learn, and still a loss that is divided"


def _weights(workshop: Workshop, batch: list[EncodedExample], **losses: Any) -> tuple[Recipe, list[float]]:
    recipe = toy.recipe(workshop.folder / "backbone", losses=losses)
    return recipe, example_weights(batch, recipe, start(workshop, recipe)._loss_starts)


def test_losses_are_divided_if_the_recipe_says_so(workshop: Workshop) -> None:
    """With `scaled` the weight of an example is divided by its task's start; without it the weights are as before."""
    batch = [own[0] for own in workshop.examples]
    recipe, plain = _weights(workshop, batch)
    assert plain == example_weights(batch, recipe)
    _, scaled = _weights(workshop, batch, scaled=True)
    starts = [loss_start(own.task, each) for own, each in zip(workshop.data, workshop.examples, strict=True)]
    assert scaled == pytest.approx([weight / own for weight, own in zip(plain, starts, strict=True)])
