"""Tests of training/loop.py: toy runs of all seven kinds."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from model.network import Network
from model.tasks import Kind
from tests.training import toy
from tests.training.conftest import Workshop
from training.config import Recipe, SamplerName
from training.evaluate import evaluate_tasks
from training.examples import EncodedExample
from training.loop import NonFiniteLossError, step, train
from training.losses import batch_examples, example_losses
from training.optimizer import make_optimizer, set_learning_rate


def _recipe(workshop: Workshop, **sections: Any) -> Recipe:
    return toy.recipe(workshop.folder / "backbone", **sections)


def _train(
    workshop: Workshop, recipe: Recipe, evaluate: Callable[[Network], None] = lambda _: None
) -> tuple[Network, str]:
    """A network trained from the start, and what the console showed."""
    network, shown = workshop.network(), io.StringIO()
    console = Console(file=shown, width=200)
    train(network, workshop.examples, recipe, workshop.encoder.pad_id, console, lambda: evaluate(network))
    return network, shown.getvalue()


def _weights(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    assert set(one) == set(other)
    return {name for name, tensor in one.items() if torch.equal(tensor, other[name])}


@torch.no_grad()
def _mean_losses(network: Network, workshop: Workshop) -> list[float]:
    """Each task's mean loss on its training examples, without dropout."""
    network.eval()
    means = []
    for own in workshop.examples:
        batch = batch_examples(own, network.tasks, workshop.encoder.pad_id)
        means.append(float(example_losses(network, network(batch.batch, network.condition()), batch).mean()))
    return means


# A run


def test_the_loss_of_every_task_falls(workshop: Workshop) -> None:
    """A short run lowers each task's loss, most of them by far, and its answers get better."""
    before = _mean_losses(workshop.network(), workshop)
    network, _ = _train(workshop, _recipe(workshop, length={"examples": 960}))
    after = _mean_losses(network, workshop)
    assert all(late < early for early, late in zip(before, after, strict=True))
    assert sum(late < early / 2 for early, late in zip(before, after, strict=True)) >= 4
    untrained = evaluate_tasks(workshop.network(), workshop.encoder, workshop.data)
    trained = evaluate_tasks(network, workshop.encoder, workshop.data)
    gains = [trained[name][metric] - untrained[name][metric] for name, (metric, *_) in untrained.items()]
    assert sum(gains) / 7 > 0.3


@pytest.mark.parametrize("name", SamplerName)
def test_every_sampler_trains(workshop: Workshop, name: SamplerName) -> None:
    """With each of the samplers a run lowers the mean loss of all tasks."""
    before = _mean_losses(workshop.network(), workshop)
    network, _ = _train(workshop, _recipe(workshop, sampler={"name": str(name), "temperature": 2.0}))
    assert sum(_mean_losses(network, workshop)) < 0.9 * sum(before)


@pytest.mark.parametrize("name", SamplerName)
def test_one_seed_gives_one_result(workshop: Workshop, name: SamplerName) -> None:
    """The same recipe gives the same weights to the bit, dropout and sampling included; another seed does not."""
    short = {"sampler": {"name": str(name)}, "length": {"examples": 80}}
    weights = [_weights(_train(workshop, _recipe(workshop, **short))[0]) for _ in range(2)]
    assert _same(*weights) == set(weights[0])
    torch.manual_seed(99)  # whatever the process did before
    other_seed = _recipe(workshop, **short).model_copy(update={"seed": 4})
    other = _weights(_train(workshop, other_seed)[0])
    changed = set(other) - _same(weights[0], other)
    assert {name for name, parameter in workshop.network().named_parameters() if parameter.requires_grad} <= changed


def test_looking_changes_nothing(workshop: Workshop) -> None:
    """Evaluating on the way, every few examples, leaves the weights as they would be without."""
    seen: list[bool] = []

    def evaluate(network: Network) -> None:
        seen.append(network.training)
        evaluate_tasks(network, workshop.encoder, workshop.data)

    plain, _ = _train(workshop, _recipe(workshop, length={"examples": 160}))
    watched, _ = _train(workshop, _recipe(workshop, length={"examples": 160, "evaluate_every": 50}), evaluate)
    assert len(seen) == 3
    assert _same(_weights(plain), _weights(watched)) == set(_weights(plain))


@pytest.mark.parametrize("frozen_layers", [0, 1, 2])
def test_frozen_tensors_stay_as_they_are(workshop: Workshop, frozen_layers: int) -> None:
    """With weight decay, a run changes no frozen tensor by a bit, and every other one, conditional ones below too."""
    recipe = _recipe(
        workshop, backbone={"frozen_layers": frozen_layers}, optimizer={"weight_decay": 0.5}, length={"examples": 160}
    )
    changed_workshop = Workshop(
        workshop.folder, recipe, workshop.backbone, workshop.encoder, workshop.data, workshop.examples
    )
    before = changed_workshop.network()
    frozen = {name for name, parameter in before.named_parameters() if not parameter.requires_grad}
    network, _ = _train(changed_workshop, recipe)
    unchanged = _same(_weights(before), _weights(network))
    assert frozen <= unchanged
    assert any(name.startswith("encoder.embeddings") for name in frozen)
    assert unchanged == frozen
    conditional = [name for name in before.state_dict() if "layers.0" in name and ("film" in name or "bottle" in name)]
    assert conditional
    assert not set(conditional) & unchanged


def test_a_run_has_the_length_of_its_recipe(workshop: Workshop) -> None:
    """Training stops with the first batch that reaches the examples of the recipe, and shows how far it is."""
    _, shown = _train(workshop, _recipe(workshop, length={"examples": 100}))
    assert "100 of 100 examples" in shown
    assert "mood" in shown


# A step


def _step(workshop: Workshop, network: Network, examples: list[EncodedExample], recipe: Recipe) -> Tensor:
    optimizer = make_optimizer(network, recipe.optimizer)
    set_learning_rate(optimizer, 0.5, 0.1)
    return step(network, optimizer, examples, recipe, workshop.encoder.pad_id)


def _mixed(workshop: Workshop) -> list[EncodedExample]:
    return [example for own in workshop.examples for example in own[:2]]


@pytest.mark.parametrize("broken", [Kind.CLASSIFICATION, Kind.SPAN])
def test_a_loss_that_is_no_number_stops_the_run(workshop: Workshop, broken: Kind) -> None:
    """A loss that is not finite raises an error with the tasks of the batch, and leaves every weight as it was."""
    network = workshop.network()
    with torch.no_grad():
        (network.heads.token if broken is Kind.SPAN else network.heads.sentence).bias.fill_(math.nan)
    before = _weights(network)
    task_id = list(toy.TASKS).index(broken)
    examples = [*workshop.examples[task_id][:2], *workshop.examples[2][:1]]
    with pytest.raises(NonFiniteLossError, match=f"the loss is nan on a batch of {_names(task_id, 2)};"):
        _step(workshop, network, examples, workshop.recipe)
    after = _weights(network)
    assert all(torch.equal(after[name].nan_to_num(), tensor.nan_to_num()) for name, tensor in before.items())


def _names(*task_ids: int) -> str:
    return ", ".join(sorted(list(toy.TASKS.values())[task_id] for task_id in task_ids))


def test_a_run_that_diverges_says_so(workshop: Workshop) -> None:
    """A learning rate far too high ends the run with the error rather than with weights that are no numbers."""
    recipe = _recipe(workshop, optimizer={"learning_rate": 1e30, "added_learning_rate": 1e30, "warmup": 0.0})
    with pytest.raises(NonFiniteLossError, match="lower the learning rate"):
        _train(workshop, recipe)


def test_a_step_uses_the_tasks_weights(workshop: Workshop) -> None:
    """A task of weight 2 has twice the gradient; the losses that a step gives are those before the weights."""
    recipe = _recipe(workshop, optimizer={"clip_norm": 1e9}, backbone={"dropout": 0.0, "attention_dropout": 0.0})
    light = Workshop(workshop.folder, recipe, workshop.backbone, workshop.encoder, workshop.data, workshop.examples)
    heavy = recipe.model_copy(update={"tasks": tuple(task.model_copy(update={"weight": 2.0}) for task in recipe.tasks)})
    gradients, losses = [], []
    for own in (recipe, heavy):
        network = light.network()
        losses.append(_step(workshop, network, _mixed(workshop), own))
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    torch.testing.assert_close(losses[0], losses[1])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], 2 * gradient)


def test_gradients_are_clipped(workshop: Workshop) -> None:
    """The norm of all gradients together is at most the recipe's."""
    network = workshop.network()
    _step(workshop, network, _mixed(workshop), _recipe(workshop, optimizer={"clip_norm": 0.01}))
    norms = [parameter.grad.norm() for parameter in network.parameters() if parameter.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_step_trains_in_training_mode(workshop: Workshop) -> None:
    """A step switches dropout on, also after an evaluation switched it off, and forgets earlier gradients."""
    network = workshop.network().eval()
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    _step(workshop, network, _mixed(workshop), workshop.recipe)
    assert network.training
    assert all(p.isfinite().all() for p in network.parameters())


def test_a_step_in_bfloat16_is_near_one_in_float32(workshop: Workshop) -> None:
    """Lower precision gives nearly the same losses, in float32, and the weights stay float32."""
    sections = {"backbone": {"dropout": 0.0, "attention_dropout": 0.0}}
    losses = []
    for bf16 in (False, True):
        recipe = _recipe(workshop, length={"bf16": bf16}, **sections)
        own = Workshop(workshop.folder, recipe, workshop.backbone, workshop.encoder, workshop.data, workshop.examples)
        network = own.network()
        losses.append(_step(own, network, _mixed(own), recipe))
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    torch.testing.assert_close(losses[0], losses[1], atol=0.05, rtol=0.05)
    assert not torch.equal(*losses)
