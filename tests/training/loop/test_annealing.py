"""Annealing: at the beginning the teachers' answers, at the end the right ones, for all seven kinds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from polytask.model.heads import Outputs
from polytask.model.network import Network
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import EncodedExample
from polytask.training.loop.annealing import anneal, taught_loss
from polytask.training.loop.losses import ExampleBatch, batch_examples, example_losses, task_logits
from polytask.training.teachers.answers import Answers, answer_of
from tests.training.conftest import Workshop


@pytest.fixture
def network(workshop: Workshop) -> Network:
    """The toy network before training, in eval mode."""
    return workshop.network().eval()


def _examples(workshop: Workshop) -> list[EncodedExample]:
    """Two examples of each task, the tasks alternating."""
    return [example for several in zip(*workshop.examples, strict=True) for example in several][:14]


def _random_outputs(network: Network, batch: ExampleBatch, seed: int) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    rows, length = batch.batch.input_ids.shape
    sentence = torch.randn(rows, network.heads.sentence.bias.shape[0], generator=generator)
    return Outputs(sentence, torch.randn(rows, length, network.heads.token.bias.shape[0], generator=generator))


def _logits(network: Network, outputs: Outputs, batch: ExampleBatch) -> list[Tensor]:
    return [
        task_logits(network, outputs, batch, example.task_id, [index])[0]
        for index, example in enumerate(batch.examples)
    ]


def _right_answer(task: Task, example: EncodedExample, logits: Tensor) -> Answers:
    """The right answer of an example as a teacher that is sure of it would give it."""
    answer, target = np.zeros(tuple(logits.shape)), example.target
    match task.kind:
        case Kind.CLASSIFICATION:
            answer[0, target] = 1
        case Kind.MULTIPLE_CHOICE:
            answer[target, 0] = 1
        case Kind.TAGGING:
            answer[range(len(target)), target] = 1
        case Kind.SPAN:
            answer[target, range(2)] = 1
        case Kind.MULTILABEL:
            answer[0] = target
        case Kind.RANKING:
            answer[:, 0] = target
        case Kind.REGRESSION:
            assert task.value_range is not None
            low, high = task.value_range
            answer[0, 0] = target if task.raw_output else (target - low) / (high - low)
    return answer


def _taught(network: Network, workshop: Workshop) -> tuple[ExampleBatch, Outputs]:
    """A batch of all kinds with teachers' answers, and outputs that agree with neither them nor the right ones."""
    batch = batch_examples(_examples(workshop), network.tasks, workshop.encoder.pad_id)
    teachers = _logits(network, _random_outputs(network, batch, seed=1), batch)
    examples = [
        replace(example, taught=answer_of(network.tasks[example.task_id], logits.numpy()).astype(np.float16))
        for example, logits in zip(batch.examples, teachers, strict=True)
    ]
    return replace(batch, examples=tuple(examples)), _random_outputs(network, batch, seed=2)


def test_at_the_end_only_the_right_answers_count(network: Network, workshop: Workshop) -> None:
    """At progress 1 the losses are those without teachers, to the bit."""
    batch, outputs = _taught(network, workshop)
    losses = example_losses(network, outputs, batch)
    assert torch.equal(anneal(losses, network, outputs, batch, 1.0), losses)


def test_at_the_beginning_only_the_teachers_count(network: Network, workshop: Workshop) -> None:
    """At progress 0 the loss of each example is that against its teachers' answer, whatever is right."""
    batch, outputs = _taught(network, workshop)
    found = anneal(torch.full((14,), 9.0), network, outputs, batch, 0.0)
    for index, logits in enumerate(_logits(network, outputs, batch)):
        example = batch.examples[index]
        expected = taught_loss(network.tasks[example.task_id], logits, torch.tensor(example.taught).float())
        assert found[index].item() == pytest.approx(expected.item(), abs=1e-6)


def test_in_between_it_moves_linearly(network: Network, workshop: Workshop) -> None:
    """At progress 0.25 the gradient is that of a target between both answers, a quarter of the way."""
    batch, outputs = _taught(network, workshop)
    assert outputs.token is not None
    outputs = Outputs(outputs.sentence.requires_grad_(), outputs.token.requires_grad_())
    losses = anneal(example_losses(network, outputs, batch), network, outputs, batch, 0.25)
    expected = []
    for logits, example in zip(_logits(network, outputs, batch), batch.examples, strict=True):
        task = network.tasks[example.task_id]
        assert example.taught is not None
        target = 0.25 * _right_answer(task, example, logits) + 0.75 * example.taught.astype(float)
        expected.append(taught_loss(task, logits, torch.tensor(target).float()))
    assert outputs.token is not None
    found = torch.autograd.grad(losses.sum(), [outputs.sentence, outputs.token], retain_graph=True)
    wanted = torch.autograd.grad(torch.stack(expected).sum(), [outputs.sentence, outputs.token])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("raw_output", [False, True])
def test_a_teacher_that_is_right_teaches_what_is_right(network: Network, workshop: Workshop, raw_output: bool) -> None:
    """Against the right answer of each kind the loss of teachers is the kind's own."""
    network.tasks = tuple(
        replace(task, raw_output=raw_output) if task.kind is Kind.REGRESSION else task for task in network.tasks
    )
    batch = batch_examples(_examples(workshop), network.tasks, workshop.encoder.pad_id)
    outputs = _random_outputs(network, batch, seed=2)
    losses = example_losses(network, outputs, batch)
    for index, logits in enumerate(_logits(network, outputs, batch)):
        example = batch.examples[index]
        task = network.tasks[example.task_id]
        found = taught_loss(task, logits, torch.tensor(_right_answer(task, example, logits)).float())
        assert found.item() == pytest.approx(losses[index].item(), abs=1e-5), task.kind


def test_examples_without_teachers_keep_their_losses(network: Network, workshop: Workshop) -> None:
    """In a batch of both, only the losses of examples with teachers change, and the order is kept."""
    batch, outputs = _taught(network, workshop)
    examples = [replace(each, taught=None) if index % 2 else each for index, each in enumerate(batch.examples)]
    mixed = replace(batch, examples=tuple(examples))
    losses = example_losses(network, outputs, batch)
    found, taught = (anneal(losses, network, outputs, each, 0.3) for each in (mixed, batch))
    assert torch.equal(found[1::2], losses[1::2])
    assert torch.equal(found[::2], taught[::2])
    assert not torch.isclose(found[::2], losses[::2]).any()
