"""Priors: the biases with which heads begin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from polytask.model.heads import Outputs
from polytask.model.tasks import Kind
from polytask.training.data.examples import EncodedExample, weigh_labels_equally
from polytask.training.loop.losses import batch_examples, example_losses
from polytask.training.preparation import prepare
from polytask.training.priors import prior, start_at_prior
from polytask.training.recipes.presets import Preset
from tests.training.conftest import Workshop
from tests.training.support import toy


@pytest.mark.parametrize("raw_output", [False, True])
def test_no_constant_answer_is_better(workshop: Workshop, raw_output: bool) -> None:
    """With the prior as outputs, no change of any output lowers the mean loss noticeably."""
    network = workshop.network()
    network.tasks = tuple(
        replace(task, raw_output=raw_output) if task.kind is Kind.REGRESSION else task for task in network.tasks
    )
    start_at_prior(network, workshop.examples)
    biases = [network.heads.sentence.bias, network.heads.token.bias]
    for own in workshop.examples:
        batch = batch_examples(own, network.tasks, workshop.encoder.pad_id)
        rows, length = batch.batch.input_ids.shape
        outputs = Outputs(biases[0].expand(rows, -1), biases[1].expand(rows, length, -1))
        mean = example_losses(network, outputs, batch).mean()
        gradients = torch.autograd.grad(mean, biases, allow_unused=True)
        steepest = max(float(each.abs().max()) for each in gradients if each is not None)
        assert steepest < 0.03, network.tasks[own[0].task_id].kind


def test_choices_and_spans_begin_at_zero(workshop: Workshop) -> None:
    """No choice and no place in a text is more frequent than another for a head that reads each by itself."""
    for own, examples in zip(workshop.data, workshop.examples, strict=True):
        if own.task.kind in {Kind.MULTIPLE_CHOICE, Kind.SPAN}:
            assert not prior(own.task, examples).any()


def test_balanced_labels_begin_alike(workshop: Workshop) -> None:
    """Labels that weigh the same in the losses have the same prior, whatever their frequencies."""
    task = next(own.task for own in workshop.data if own.task.kind is Kind.CLASSIFICATION)
    rare = [EncodedExample(0, (), int(index == 0)) for index in range(40)]
    assert prior(task, rare)[0] > prior(task, rare)[1] + 2
    balanced = prior(task, weigh_labels_equally(rare))
    assert balanced[0] == pytest.approx(balanced[1])


def test_a_label_that_never_occurs_has_a_finite_prior(workshop: Workshop) -> None:
    """Labels without a training example, and labels that all examples have, begin far away, but not at infinity."""
    tasks = {own.task.kind: own.task for own in workshop.data}
    one_label = [EncodedExample(0, (), 0)] * 50
    assert np.isfinite(prior(tasks[Kind.CLASSIFICATION], one_label)).all()
    always_and_never = prior(tasks[Kind.MULTILABEL], [EncodedExample(0, (), (1, 0))] * 50)
    assert always_and_never[0] == pytest.approx(-always_and_never[1]) == pytest.approx(np.log(101))


@pytest.mark.parametrize(("losses", "begins_there"), [({}, True), ({"prior": False}, False)])
def test_a_run_begins_at_the_prior(workshop: Workshop, losses: dict[str, bool], begins_there: bool) -> None:
    """A prepared network has the priors as biases, unless the recipe says no."""
    fields = toy.fields(workshop.recipe.backbone.name, losses=losses)
    recipe = toy.recipe(workshop.recipe.backbone.name, losses=losses)
    prepared = prepare(recipe, toy.to_toml(fields), workshop.folder / "data", Console(quiet=True))
    bias = prepared.network.heads.sentence.bias
    assert bool(bias.detach().any()) == begins_there


@pytest.mark.parametrize("preset", Preset)
def test_published_methods_begin_as_they_were(workshop: Workshop, preset: Preset) -> None:
    """The presets begin with biases of 0, as the published code does."""
    assert not toy.recipe(workshop.folder / "backbone", conditioning={"preset": preset}).losses.prior
