"""Trainer: toy runs of all seven kinds, single steps, and stopping."""

from __future__ import annotations

import io
import math
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from polytask.model.network import Network
from polytask.model.tasks import Kind
from polytask.training.data.examples import EncodedExample
from polytask.training.evaluation.evaluate import evaluate_tasks
from polytask.training.loop.interrupts import Interrupted
from polytask.training.loop.losses import batch_examples, example_losses
from polytask.training.loop.trainer import FAILED, NonFiniteLossError, Training, train
from polytask.training.recipes.schema import Recipe, SamplerName
from polytask.training.runs.checkpoints import latest_checkpoint, read_snapshot
from polytask.training.runs.console_display import Display
from polytask.training.runs.run_logger import RunLogger, Step
from tests.training.conftest import Workshop
from tests.training.support import toy
from tests.training.support.runs import quiet_logger, start, text_of


def _recipe(workshop: Workshop, **sections: Any) -> Recipe:
    return toy.recipe(workshop.folder / "backbone", **sections)


def _train(
    workshop: Workshop, recipe: Recipe, evaluate: Callable[[Network], None] = lambda _: None
) -> tuple[Network, str]:
    """A network trained from the start, and what the console showed."""
    training, shown = start(workshop, recipe), io.StringIO()
    network, total = training.network, training.num_examples
    logger = RunLogger(network.tasks, total, Display(Console(file=shown, width=200), network.tasks, total))

    def evaluate_once() -> Iterator[None]:
        yield
        evaluate(network)

    with tempfile.TemporaryDirectory() as folder:
        train(training, logger, Path(folder), evaluate_once)
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
    """A short run lowers each task's loss, at least four by half, and improves the mean score."""
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
    """A run with each sampler lowers the mean loss of all tasks."""
    before = _mean_losses(workshop.network(), workshop)
    network, _ = _train(workshop, _recipe(workshop, sampler={"name": str(name), "temperature": 2.0}))
    assert sum(_mean_losses(network, workshop)) < 0.9 * sum(before)


@pytest.mark.parametrize("name", SamplerName)
def test_one_seed_gives_one_result(workshop: Workshop, name: SamplerName) -> None:
    """The same recipe gives the same weights to the bit, with dropout and sampling; another seed does not."""
    short = {"sampler": {"name": str(name)}, "length": {"examples": 80}}
    weights = [_weights(_train(workshop, _recipe(workshop, **short))[0]) for _ in range(2)]
    assert _same(*weights) == set(weights[0])
    torch.manual_seed(99)  # whatever the process did before
    other_seed = _recipe(workshop, **short).model_copy(update={"seed": 4})
    other = _weights(_train(workshop, other_seed)[0])
    changed = set(other) - _same(weights[0], other)
    assert {name for name, parameter in workshop.network().named_parameters() if parameter.requires_grad} <= changed


def test_evaluating_changes_nothing(workshop: Workshop) -> None:
    """Evaluations during training do not change the resulting weights."""
    seen: list[bool] = []

    def evaluate(network: Network) -> None:
        seen.append(network.training)
        evaluate_tasks(network, workshop.encoder, workshop.data)

    plain, _ = _train(workshop, _recipe(workshop, length={"examples": 160}))
    watched, _ = _train(workshop, _recipe(workshop, length={"examples": 160, "evaluate_every": 50}), evaluate)
    assert len(seen) == 3
    assert _same(_weights(plain), _weights(watched)) == set(_weights(plain))


@pytest.mark.parametrize("frozen_layers", [0, 1, 2])
def test_frozen_tensors_do_not_change(workshop: Workshop, frozen_layers: int) -> None:
    """With weight decay a run changes no frozen tensor and every other one, conditional ones in frozen layers too."""
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
    """Training stops with the first batch that reaches the recipe's number of examples, and shows its progress."""
    _, shown = _train(workshop, _recipe(workshop, length={"examples": 100}))
    assert "100 of 100 examples" in shown
    assert "mood" in shown


# A step


def _step(workshop: Workshop, network: Network, examples: list[EncodedExample], recipe: Recipe) -> list[float]:
    """The losses of one update on the examples, in the middle of a run."""
    training = start(workshop, recipe, network)
    training.examples = training.num_planned // 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.batches, "next", lambda _: examples)
        return list(training.step().losses)


def _mixed(workshop: Workshop) -> list[EncodedExample]:
    return [example for own in workshop.examples for example in own[:2]]


@pytest.mark.parametrize("broken", [Kind.CLASSIFICATION, Kind.SPAN])
def test_a_loss_that_is_no_number_stops_the_run(workshop: Workshop, broken: Kind) -> None:
    """A loss that is not finite raises an error with only its task and records, and no weight changes."""
    network = workshop.network()
    task_id, other = list(toy.TASKS).index(broken), list(toy.TASKS).index(Kind.TAGGING)
    with torch.no_grad():
        head = network.heads.token if broken is Kind.SPAN else network.heads.sentence
        head.bias[network.output_slices[task_id]] = math.nan
    before = _weights(network)
    examples = [*workshop.examples[task_id][:7], *workshop.examples[other][:1]]
    with pytest.raises(NonFiniteLossError) as caught:
        _step(workshop, network, examples, workshop.recipe)
    name = toy.TASKS[broken]
    first, *lines, more, remedy = str(caught.value).splitlines()
    assert first == f"update 1: no longer a number: 7 of 8 losses, of {name}"
    assert lines == [f"  {name}: {text_of(example)[:79]}…" for example in examples[:5]]
    assert more == "  … and 2 more"
    assert "lower the learning rates" in remedy
    after = _weights(network)
    assert all(torch.equal(after[name].nan_to_num(), tensor.nan_to_num()) for name, tensor in before.items())


def test_a_gradient_that_is_no_number_stops_the_run(workshop: Workshop) -> None:
    """With finite losses and an infinite gradient, the error names all records of the batch, and no weight changes."""
    network = workshop.network()
    weight = network.heads.sentence.weight
    weight.register_hook(lambda gradient: gradient * math.inf)  # type: ignore[no-untyped-call]
    before = _weights(network)
    with pytest.raises(NonFiniteLossError, match=r"the gradient of a batch whose losses are finite, of choice, mood\n"):
        _step(workshop, network, [workshop.examples[0][0], workshop.examples[4][0]], workshop.recipe)
    assert _same(before, _weights(network)) == set(before)


def test_a_run_that_diverges_says_so(workshop: Workshop, tmp_path: Path) -> None:
    """A far too high learning rate ends the run with the error, and the weights before that update are saved."""
    rates = {"learning_rate": 1e30, "added_learning_rate": 1e30, "warmup": 0.0}
    training = start(workshop, _recipe(workshop, optimizer=rates))
    with pytest.raises(NonFiniteLossError, match=rf"(?s)lower the learning rates.* kept in {tmp_path}/{FAILED}\Z"):
        train(training, quiet_logger(training), tmp_path, lambda: ())
    assert latest_checkpoint(tmp_path) is None
    kept = read_snapshot(tmp_path / FAILED)
    assert kept.state["counters"][1] == training.updates == 1
    assert torch.equal(kept.tensors["network.heads.sentence.weight"], training.network.heads.sentence.weight)


def test_a_step_uses_the_tasks_weights(workshop: Workshop) -> None:
    """A task of weight 2 has twice the gradient; the losses of a step are those before weighting."""
    recipe = _recipe(workshop, optimizer={"clip_norm": 1e9}, backbone={"dropout": 0.0, "attention_dropout": 0.0})
    light = Workshop(workshop.folder, recipe, workshop.backbone, workshop.encoder, workshop.data, workshop.examples)
    heavy = recipe.model_copy(update={"tasks": tuple(task.model_copy(update={"weight": 2.0}) for task in recipe.tasks)})
    gradients: list[dict[str, Tensor]] = []
    losses: list[list[float]] = []
    for own in (recipe, heavy):
        network = light.network()
        losses.append(_step(workshop, network, _mixed(workshop), own))
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], 2 * gradient)


def test_gradients_are_clipped(workshop: Workshop) -> None:
    """The norm of all gradients together is at most the recipe's `clip_norm`."""
    network = workshop.network()
    _step(workshop, network, _mixed(workshop), _recipe(workshop, optimizer={"clip_norm": 0.01}))
    norms = [parameter.grad.norm() for parameter in network.parameters() if parameter.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_step_trains_in_training_mode(workshop: Workshop) -> None:
    """A step uses dropout, also after an evaluation, and discards earlier gradients."""
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
    assert losses[0] == pytest.approx(losses[1], abs=0.05, rel=0.05)
    assert losses[0] != losses[1]


# Stopping


def _stopping(number: signal.Signals, at: int) -> Callable[[Training], RunLogger]:
    """A logger whose `advance` sends the signal in update `at`."""

    class Stopping(RunLogger):
        def advance(self, step: Step) -> None:
            super().advance(step)
            if step.updates == at:
                os.kill(os.getpid(), number)

    return lambda training: quiet_logger(training, Stopping)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_with_a_checkpoint(workshop: Workshop, tmp_path: Path, number: signal.Signals) -> None:
    """After a signal the run stops with a checkpoint, one step later, and the former signal handlers are back."""
    training = start(workshop, _recipe(workshop))
    handlers = [signal.getsignal(own) for own in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted) as caught:
        train(training, _stopping(number, 3)(training), tmp_path, lambda: ())
    assert caught.value.number == number
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert read_snapshot(checkpoint).state["counters"][1] == training.updates == 4
    assert [signal.getsignal(own) for own in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_a_signal_stops_an_evaluation(workshop: Workshop, tmp_path: Path) -> None:
    """A signal ends an evaluation between two tasks, and the checkpoint says that it is still due."""
    training = start(workshop, _recipe(workshop, length={"evaluate_every": 40}))

    def evaluate() -> Iterator[None]:
        yield
        os.kill(os.getpid(), signal.SIGTERM)
        yield
        raise AssertionError("must not be reached")

    with pytest.raises(Interrupted):
        train(training, quiet_logger(training), tmp_path, evaluate)
    assert 40 <= training.examples < 80
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    again = start(workshop, training.recipe)
    again.restore(read_snapshot(checkpoint))
    assert again.evaluation_due


def test_the_last_two_checkpoints_stay(workshop: Workshop, tmp_path: Path) -> None:
    """Checkpoints are written as the recipe says and at the end, and at most two exist at any time."""
    training = start(workshop, _recipe(workshop, length={"examples": 160, "checkpoint_every": 40}))
    counts = []

    class Looking(RunLogger):
        def advance(self, step: Step) -> None:
            counts.append(len(list(tmp_path.iterdir())))
            super().advance(step)

    train(training, quiet_logger(training, Looking), tmp_path, lambda: ())
    assert max(counts) == 2
    assert sorted(set(counts)) == [0, 1, 2]
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert read_snapshot(checkpoint).state["counters"][1] == training.updates
