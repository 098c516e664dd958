"""Optimiser: parameter groups, learning rates and the average of the weights."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import nn

from polytask.model.conditioning import Conditional
from polytask.model.network import Network, freeze_backbone
from polytask.training.loop.optimizer import WeightAverage, make_optimizer, schedule, set_learning_rate
from polytask.training.recipes.schema import OptimizerConfig

CONFIG = OptimizerConfig(learning_rate=0.5, added_learning_rate=2.0, weight_decay=0.3)


def _settings(network: Network) -> dict[str, tuple[float, float]]:
    """Peak learning rate and weight decay of each trainable parameter, by name."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {
        names[id(parameter)]: (group["peak_lr"], group["weight_decay"])
        for group in make_optimizer(network, CONFIG).param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("frozen_layers", [None, 0, 1, 2])
def test_every_trainable_parameter_is_there_once(tiny_network: Network, frozen_layers: int | None) -> None:
    """The groups contain each trainable parameter exactly once and no frozen one."""
    if frozen_layers is not None:
        freeze_backbone(tiny_network, frozen_layers)
    held = [id(p) for group in make_optimizer(tiny_network, CONFIG).param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in tiny_network.parameters() if p.requires_grad}
    frozen = sum(not p.requires_grad for p in tiny_network.parameters())
    assert len(held) + frozen == len(list(tiny_network.parameters()))


def test_vectors_do_not_decay(tiny_network: Network) -> None:
    """Biases and layer norm scales are not decayed, matrices are."""
    parameters = dict(tiny_network.named_parameters())
    for name, (_, decay) in _settings(tiny_network).items():
        assert decay == (0.3 if parameters[name].dim() > 1 else 0.0), name
    assert {parameter.dim() for parameter in parameters.values()} == {1, 2}


def test_added_modules_have_their_own_learning_rate(tiny_network: Network) -> None:
    """Encoder weights have one learning rate; conditional modules, task vectors and heads have the other."""
    added = {
        f"{name}.{own}"
        for name, module in tiny_network.named_modules()
        if isinstance(module, Conditional)
        for own, _ in module.named_parameters()
    }
    for name, (rate, _) in _settings(tiny_network).items():
        expected = 2.0 if name in added or name.startswith("heads.") else 0.5
        assert rate == expected, name
    assert _settings(tiny_network)["encoder.layers.0.attention_norm.weight"][0] == 0.5
    assert _settings(tiny_network)["encoder.layers.0.attention_norm.film.projection.weight"][0] == 2.0


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_the_rate_rises_to_its_peak_and_falls_to_zero(warmup: float) -> None:
    """The factor of the peak rises linearly to 1 at `warmup` and falls linearly to 0 at the end."""
    assert schedule(warmup, warmup) == 1.0
    assert schedule(1.0, warmup) == 0.0
    assert schedule((1 + warmup) / 2, warmup) == pytest.approx(0.5)
    if warmup:
        assert schedule(0.0, warmup) == 0.0
        assert schedule(warmup / 4, warmup) == pytest.approx(0.25)
    shares = [schedule(step / 1000, warmup) for step in range(1001)]
    assert max(shares) == pytest.approx(1.0)
    assert all(0 <= share <= 1 for share in shares)


def test_warmup_may_last_to_the_end() -> None:
    """With a warm-up over the whole run the rate only rises."""
    assert [schedule(step / 4, 1.0) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]


def test_a_run_that_draws_too_many_examples_does_not_climb_again() -> None:
    """Beyond the end of the run the rate stays 0."""
    assert schedule(1.01, 0.1) == 0.0


def test_all_groups_follow_the_schedule(tiny_network: Network) -> None:
    """Every group's rate is its peak times the schedule's factor."""
    optimizer = make_optimizer(tiny_network, CONFIG)
    for progress in (0.0, 0.05, 0.1, 0.7, 1.0):
        set_learning_rate(optimizer, progress, 0.1)
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(group["peak_lr"] * schedule(progress, 0.1))
    assert {group["peak_lr"] for group in optimizer.param_groups} == {0.5, 2.0}


def test_decay_shrinks_matrices_only(tiny_network: Network) -> None:
    """A step with zero gradients shrinks matrices by rate times decay and leaves vectors unchanged."""
    before = {name: parameter.detach().clone() for name, parameter in tiny_network.named_parameters()}
    optimizer = make_optimizer(tiny_network, CONFIG)
    set_learning_rate(optimizer, 0.1, 0.1)
    for parameter in tiny_network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, (rate, decay) in _settings(tiny_network).items():
        after = nn.Module.get_parameter(tiny_network, name).detach()
        torch.testing.assert_close(after, before[name] * (1 - rate * decay))


def _walk(parameters: list[nn.Parameter], average: WeightAverage, steps: int) -> list[list[torch.Tensor]]:
    """Random weights after each of some updates, which are added to the average."""
    generator, seen = torch.Generator().manual_seed(0), []
    for step in range(steps):
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        average.update(step)
        seen.append([parameter.detach().clone() for parameter in parameters])
    return seen


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_an_average_follows_its_formula(decay: float) -> None:
    """After update n the decay of the average is min(decay, (1 + n) / (10 + n))."""
    parameters = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.zeros(4))]
    expected = [parameter.detach().clone() for parameter in parameters]
    average = WeightAverage(parameters, decay)
    for step, weights in enumerate(_walk(parameters, average, 20)):
        kept = min(decay, (1 + step) / (10 + step))
        expected = [kept * old + (1 - kept) * new for old, new in zip(expected, weights, strict=True)]
    for found, wanted in zip(average.weights, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_average_is_applied_within_a_block() -> None:
    """Within the block the network has the averaged weights, afterwards its own, also if the block fails."""
    parameters = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.zeros(4))]
    average = WeightAverage(parameters, 0.9)
    own = _walk(parameters, average, 3)[-1]
    for error in (None, ValueError):
        with suppress(ValueError), average.applied():
            assert all(torch.equal(p, weight) for p, weight in zip(parameters, average.weights, strict=True))
            if error is not None:
                raise error
        assert all(torch.equal(parameter, weight) for parameter, weight in zip(parameters, own, strict=True))
    average.apply()
    assert all(torch.equal(p, weight) for p, weight in zip(parameters, average.weights, strict=True))


def test_without_an_average_nothing_changes() -> None:
    """With decay 0 no copy is kept, and applying the average changes nothing."""
    parameters = [nn.Parameter(torch.ones(2, 3))]
    average = WeightAverage(parameters, 0.0)
    own = _walk(parameters, average, 3)[-1]
    assert average.weights == []
    with average.applied():
        assert torch.equal(parameters[0], own[0])
    average.apply()
    assert torch.equal(parameters[0], own[0])


def test_lower_layers_may_learn_more_slowly(tiny_network: Network) -> None:
    """With `layer_decay` each layer's rate is a fixed share of the one above it, the embeddings' the lowest; added weights keep theirs."""
    config = CONFIG.model_copy(update={"layer_decay": 0.5})
    names = {id(parameter): name for name, parameter in tiny_network.named_parameters()}
    rates = {
        names[id(parameter)]: group["peak_lr"]
        for group in make_optimizer(tiny_network, config).param_groups
        for parameter in group["params"]
    }
    depth = len(tiny_network.encoder.layers)
    assert rates[f"encoder.layers.{depth - 1}.attention_norm.weight"] == 0.5
    assert rates[f"encoder.layers.{depth - 2}.attention_norm.weight"] == 0.25
    embeddings = {rate for name, rate in rates.items() if name.startswith("encoder.embeddings")}
    assert min(embeddings) == 0.5 * 0.5**depth
    assert rates["heads.sentence.weight"] == 2.0
