"""Losses: each kind's loss by its definition, in mixed batches."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from polytask.model.heads import Outputs
from polytask.model.network import Network
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import EncodedExample, weigh_labels_equally
from polytask.training.loop.losses import ExampleBatch, batch_examples, example_losses, example_weights, task_logits
from tests.training.conftest import Workshop
from tests.training.support import toy


def _cross_entropy(logits: list[float], right: int) -> float:
    return math.log(sum(math.exp(logit) for logit in logits)) - logits[right]


def _binary(logit: float, wanted: float) -> float:
    probability = 1 / (1 + math.exp(-logit))
    return -wanted * math.log(probability) - (1 - wanted) * math.log(1 - probability)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _literal(task: Task, rows: list[list[float]], target: Any) -> float:
    """The loss of one example by definition. `rows`: logits per row, or per kept word or context token."""
    match task.kind:
        case Kind.CLASSIFICATION:
            return _cross_entropy(rows[0], target)
        case Kind.MULTILABEL:
            return sum(_binary(logit, wanted) for logit, wanted in zip(rows[0], target, strict=True))
        case Kind.REGRESSION:
            assert task.value_range is not None
            low, high = task.value_range
            return _binary(rows[0][0], (target - low) / (high - low))
        case Kind.RANKING:
            return _mean([_binary(logit, wanted) for (logit,), wanted in zip(rows, target, strict=True)])
        case Kind.MULTIPLE_CHOICE:
            return _cross_entropy([logit for (logit,) in rows], target)
        case Kind.TAGGING:
            return _mean([_cross_entropy(row, label) for row, label in zip(rows, target, strict=True)])
        case Kind.SPAN:
            starts, ends = zip(*rows, strict=True)
            return _mean([_cross_entropy(list(starts), target[0]), _cross_entropy(list(ends), target[1])])


def _mixed(workshop: Workshop, per_task: int = 3) -> list[EncodedExample]:
    """Examples of all tasks, the tasks alternating."""
    return [example for several in zip(*workshop.examples, strict=True) for example in several][: 7 * per_task]


def _batch(network: Network, workshop: Workshop, examples: list[EncodedExample]) -> ExampleBatch:
    return batch_examples(examples, network.tasks, workshop.encoder.pad_id)


def _losses(network: Network, workshop: Workshop, examples: list[EncodedExample]) -> Tensor:
    batch = _batch(network, workshop, examples)
    with torch.no_grad():
        return example_losses(network, network(batch.batch, network.condition()), batch)


def _random_outputs(network: Network, batch: ExampleBatch, scale: float) -> Outputs:
    generator = torch.Generator().manual_seed(0)
    rows, length = batch.batch.input_ids.shape
    sentence = torch.randn(rows, network.heads.sentence.bias.shape[0], generator=generator)
    token = torch.randn(rows, length, network.heads.token.bias.shape[0], generator=generator)
    return Outputs(sentence * scale, token * scale)


@pytest.fixture
def network(workshop: Workshop) -> Network:
    """The toy network before training, in eval mode."""
    return workshop.network().eval()


def test_rows_lie_one_after_another(network: Network, workshop: Workshop) -> None:
    """Example i owns the rows from starts[i] to starts[i + 1], with its task's id."""
    examples = _mixed(workshop)
    batch = _batch(network, workshop, examples)
    for index, example in enumerate(batch.examples):
        rows = range(batch.starts[index], batch.starts[index + 1])
        assert len(rows) == len(example.encodings)
        for row, encoding in zip(rows, example.encodings, strict=True):
            assert batch.batch.task_ids[row] == example.task_id
            assert tuple(batch.batch.input_ids[row, : len(encoding)].tolist()) == encoding.input_ids
    assert batch.starts[-1] == len(batch.batch.lengths)


def test_token_logits_are_computed_only_when_needed(network: Network, workshop: Workshop) -> None:
    """A batch asks for token logits when one of its tasks labels tokens."""
    for task, own in zip(network.tasks, workshop.examples, strict=True):
        assert _batch(network, workshop, own[:2]).batch.token_level == task.token_level
    assert _batch(network, workshop, _mixed(workshop, 1)).batch.token_level


def test_each_kind_has_its_loss(network: Network, workshop: Workshop) -> None:
    """In a mixed batch the loss of each example equals the definition for its kind."""
    examples = _mixed(workshop, 5)
    batch = _batch(network, workshop, examples)
    outputs = _random_outputs(network, batch, scale=2)
    losses = example_losses(network, outputs, batch)
    assert losses.shape == (len(examples),)
    for index, example in enumerate(examples):
        task, columns = network.tasks[example.task_id], network.output_slices[example.task_id]
        start, stop = batch.starts[index], batch.starts[index + 1]
        if task.token_level:
            assert outputs.token is not None
            rows = [outputs.token[start, token, columns].tolist() for token in example.encodings[0].positions]
        else:
            rows = outputs.sentence[start:stop, columns].tolist()
        assert losses[index].item() == pytest.approx(_literal(task, rows, example.target), abs=1e-5), task.kind


def test_graded_candidates_are_learnt_in_the_order_of_their_grades(network: Network, workshop: Workshop) -> None:
    """The loss of candidates with grades is least where the score of each is its grade's share of the highest."""
    (task_id,) = [task_id for task_id, task in enumerate(network.tasks) if task.kind is Kind.RANKING]
    example = replace(workshop.examples[task_id][0], target=(1 / 3, 1.0, 0.01))
    batch = _batch(network, workshop, [example])
    sentence = torch.zeros(3, network.heads.sentence.bias.shape[0], requires_grad=True)
    optimizer = torch.optim.Adam([sentence], lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        example_losses(network, Outputs(sentence, None), batch).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    scores = sentence.detach().sigmoid()[:, network.output_slices[task_id]][:, 0]
    assert scores.tolist() == pytest.approx([1 / 3, 1.0, 0.01], abs=0.02)


def test_a_raw_output_is_trained_by_its_squared_error(network: Network, workshop: Workshop) -> None:
    """If the output is the value itself, the loss is the squared error in the value's units."""
    (task_id,) = [task_id for task_id, task in enumerate(network.tasks) if task.kind is Kind.REGRESSION]
    network.tasks = tuple(
        replace(task, raw_output=True) if task.kind is Kind.REGRESSION else task for task in network.tasks
    )
    examples = workshop.examples[task_id][:5]
    batch = _batch(network, workshop, examples)
    outputs = _random_outputs(network, batch, scale=2)
    found = outputs.sentence[:, network.output_slices[task_id]][:, 0].tolist()
    expected = [(value - example.target) ** 2 for value, example in zip(found, examples, strict=True)]
    assert example_losses(network, outputs, batch).tolist() == pytest.approx(expected, rel=1e-5)


def _weighted(task_ids: list[int], losses: list[float], weights: dict[int, float], *, task_mean: bool) -> float:
    """The loss of a batch with those examples, by the recipe's definition."""
    recipe = toy.recipe("backbone", losses={"task_mean": task_mean})
    tasks = tuple(
        task.model_copy(update={"weight": weights.get(task_id, 1.0)}) for task_id, task in enumerate(recipe.tasks)
    )
    examples = [EncodedExample(task_id, (), None) for task_id in task_ids]
    found = example_weights(examples, recipe.model_copy(update={"tasks": tasks}))
    return sum(weight * loss for weight, loss in zip(found, losses, strict=True))


def test_examples_weigh_the_same() -> None:
    """The loss of a batch is the mean of its examples' losses times their tasks' weights."""
    assert _weighted([2, 0, 0, 0], [4, 1, 2, 3], {}, task_mean=False) == pytest.approx(10 / 4)
    assert _weighted([2, 0, 0, 0], [4, 1, 2, 3], {2: 0.5}, task_mean=False) == pytest.approx(8 / 4)


def test_tasks_weigh_the_same_if_the_recipe_says_so() -> None:
    """With `task_mean` the loss of a batch is the mean of the present tasks' means."""
    assert _weighted([2, 0, 0, 0], [4, 1, 2, 3], {}, task_mean=True) == pytest.approx((4 + 2) / 2)
    assert _weighted([2, 0, 0, 0], [4, 1, 2, 3], {2: 0.5}, task_mean=True) == pytest.approx((2 + 2) / 2)
    assert _weighted([1, 1], [1, 2], {}, task_mean=True) == pytest.approx(1.5)


def test_balanced_labels_weigh_the_same() -> None:
    """The weights of each label's examples have the same sum, and their mean is 1."""
    examples = weigh_labels_equally([EncodedExample(0, (), target) for target in (0, 0, 0, 1, 0, 2)])
    assert [example.weight for example in examples] == pytest.approx([0.5, 0.5, 0.5, 2, 0.5, 2])
    found = example_weights(examples, toy.recipe("backbone"))
    assert found == pytest.approx([example.weight / 6 for example in examples])


def test_mixed_batches_equal_separate_ones(network: Network, workshop: Workshop) -> None:
    """An example's loss is the same in a mixed batch, in a batch of its task, and alone."""
    examples = _mixed(workshop)
    mixed = _losses(network, workshop, examples)
    for task_id in range(7):
        indices = [index for index, example in enumerate(examples) if example.task_id == task_id]
        own = _losses(network, workshop, [examples[index] for index in indices])
        torch.testing.assert_close(mixed[indices], own, atol=1e-5, rtol=1e-5)
        alone = _losses(network, workshop, [examples[indices[0]]])
        torch.testing.assert_close(mixed[indices[:1]], alone, atol=1e-5, rtol=1e-5)


def test_losses_keep_the_examples_order(network: Network, workshop: Workshop) -> None:
    """Reordering the examples of a batch reorders their losses in the same way."""
    examples = _mixed(workshop)
    losses = _losses(network, workshop, examples)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = _losses(network, workshop, [examples[index] for index in order])
    torch.testing.assert_close(shuffled, losses[order], atol=1e-5, rtol=1e-5)
    assert torch.unique(losses.round(decimals=4)).numel() > 10


@pytest.mark.parametrize("scale", [0.0, 1e3, 1e6])
def test_losses_and_gradients_are_finite(network: Network, workshop: Workshop, scale: float) -> None:
    """For extreme logits, right or wrong, losses and gradients are finite and no loss is negative."""
    batch = _batch(network, workshop, _mixed(workshop, 8))
    random = _random_outputs(network, batch, scale)
    assert random.token is not None
    outputs = Outputs(random.sentence.requires_grad_(), random.token.requires_grad_())
    losses = example_losses(network, outputs, batch)
    torch.autograd.backward(losses.sum())
    assert losses.isfinite().all()
    assert losses.min() >= 0
    for logits in (outputs.sentence, outputs.token):
        assert logits is not None
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_losses_are_computed_in_full_precision(network: Network, workshop: Workshop) -> None:
    """Logits in bfloat16 give losses in float32."""
    batch = _batch(network, workshop, _mixed(workshop, 2))
    outputs = _random_outputs(network, batch, 1)
    assert outputs.token is not None
    low = Outputs(outputs.sentence.bfloat16(), outputs.token.bfloat16())
    losses = example_losses(network, low, batch)
    assert losses.dtype == torch.float32
    same = Outputs(low.sentence.float(), outputs.token.bfloat16().float())
    assert torch.equal(losses, example_losses(network, same, batch))


def test_padding_and_other_tasks_take_no_part(network: Network, workshop: Workshop) -> None:
    """Logits of padding, other tasks, special tokens and later word pieces get no gradient."""
    examples = _mixed(workshop)
    batch = _batch(network, workshop, examples)
    random = _random_outputs(network, batch, 1)
    assert random.token is not None
    outputs = Outputs(random.sentence.requires_grad_(), random.token.requires_grad_())
    torch.autograd.backward(example_losses(network, outputs, batch).sum())
    expected_sentence, expected_token = torch.zeros_like(random.sentence), torch.zeros_like(random.token)
    for index, example in enumerate(examples):
        columns = network.output_slices[example.task_id]
        if network.tasks[example.task_id].token_level:
            expected_token[batch.starts[index], list(example.encodings[0].positions), columns] = 1
        else:
            expected_sentence[batch.starts[index] : batch.starts[index + 1], columns] = 1
    assert outputs.token is not None
    assert outputs.token.grad is not None
    assert outputs.sentence.grad is not None
    assert torch.equal(outputs.sentence.grad != 0, expected_sentence != 0)
    assert torch.equal(outputs.token.grad != 0, expected_token != 0)


def test_logits_of_a_task_are_its_own(network: Network, workshop: Workshop) -> None:
    """`task_logits` has one tensor per example, with a row per candidate, word or context token."""
    examples = _mixed(workshop)
    batch = _batch(network, workshop, examples)
    outputs = _random_outputs(network, batch, 1)
    for index, example in enumerate(examples):
        task = network.tasks[example.task_id]
        (logits,) = task_logits(network, outputs, batch, example.task_id, [index])
        rows = len(example.encodings[0].positions) if task.token_level else len(example.encodings)
        assert logits.shape == (rows, task.num_outputs)
