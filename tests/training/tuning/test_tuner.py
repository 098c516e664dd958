"""Tuner: one task learns, and nothing else moves."""

from __future__ import annotations

import copy

import pytest
import torch

from polytask.model.config import Product
from polytask.model.network import Network
from polytask.training.recipes.second_stage import SecondStageConfig
from polytask.training.tuning.second_stage import with_kept
from polytask.training.tuning.tuner import TunedTask, tune_task
from tests.model.support.networks import random_batch, run
from tests.training.conftest import Workshop

CONFIG = SecondStageConfig(rank=4, learning_rate=2e-2, passes=5, batch_rows=16)


@pytest.fixture(scope="module")
def network(tuning_workshop: Workshop) -> Network:
    """The toy network before any training."""
    return tuning_workshop.network().eval()


@pytest.fixture(scope="module")
def tuned(tuning_workshop: Workshop, network: Network) -> dict[str, TunedTask]:
    """Every task, tuned by itself."""
    return {data.task.name: tune_task(network, tuning_workshop.encoder, data, CONFIG) for data in tuning_workshop.data}


def test_every_kind_is_tuned(tuned: dict[str, TunedTask]) -> None:
    """Each kind of task gets better on examples that no update has seen, by more than one standard error."""
    assert {name for name, task in tuned.items() if task.is_kept} == set(tuned)
    assert all(0 < task.best_round <= task.rounds for task in tuned.values())


def test_the_network_stays_as_it_is(tuning_workshop: Workshop, network: Network) -> None:
    """Tuning changes no weight of the network that it starts from, and leaves no gradient."""
    before = copy.deepcopy(network.state_dict())
    tune_task(network, tuning_workshop.encoder, tuning_workshop.data[0], CONFIG.model_copy(update={"passes": 1}))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_other_tasks_answer_the_same_to_the_bit(network: Network, tuned: dict[str, TunedTask]) -> None:
    """In a batch with a task that was tuned, all others have the logits that they had before; the tuned one has others."""
    task_id = next(index for index, task in enumerate(network.tasks) if task.name == "mood")
    unfolded = with_kept(network, {"mood": tuned["mood"]}, CONFIG)
    batch = random_batch(network.config, [9, 4, 17, 30, 12, 7, 21, 3], [0, 1, 2, 3, 4, 5, 6, task_id])
    before, after = run(network, batch), run(unfolded, batch)
    others = batch.task_ids != task_id
    columns = torch.ones(before.sentence.shape[1], dtype=torch.bool)
    columns[network.output_slices[task_id]] = False
    assert before.token is not None
    assert after.token is not None
    assert torch.equal(before.sentence[others][:, columns], after.sentence[others][:, columns])
    assert torch.equal(before.token[others], after.token[others])
    assert not torch.equal(before.sentence[~others], after.sentence[~others])


def test_a_state_that_is_no_better_is_not_kept(
    tuning_workshop: Workshop, network: Network, tuned: dict[str, TunedTask]
) -> None:
    """A rate that ruins the task ends early with the old state as the best one, and the network remains the same object."""
    config = CONFIG.model_copy(update={"learning_rate": 1e4, "passes": 20})
    data = tuning_workshop.data[0]
    good = with_kept(network, {data.task.name: tuned[data.task.name]}, CONFIG)
    ruined = tune_task(good, tuning_workshop.encoder, data, config)
    assert (ruined.best_round, ruined.rounds, ruined.is_kept) == (0, 2, False)
    assert with_kept(good, {data.task.name: ruined}, config) is good


def test_a_residual_is_optional(tuning_workshop: Workshop, network: Network) -> None:
    """With rank 0 only the row and the head are tuned; with a rank the named products of the named layers get more."""
    data = tuning_workshop.data[0]
    short = CONFIG.model_copy(update={"passes": 1})
    alone = tune_task(network, tuning_workshop.encoder, data, short.model_copy(update={"rank": 0}))
    assert not any(name.endswith(("_down", "_up")) for name in alone.tensors)
    changes = {"layers": (1,), "products": (Product.VALUE, Product.CONTRACT)}
    partial = tune_task(network, tuning_workshop.encoder, data, short.model_copy(update=changes))
    assert {name for name in partial.tensors if name.endswith("_up")} == {"layer_1_value_up", "layer_1_contract_up"}


def test_stored_numbers_are_the_measured_ones(tuned: dict[str, TunedTask]) -> None:
    """What is tuned has no more digits than a version keeps."""
    tensors = [tensor for task in tuned.values() for tensor in task.tensors.values()]
    assert all(torch.equal(tensor, tensor.half().float()) for tensor in tensors)


def test_the_same_seed_gives_the_same_row(
    tuning_workshop: Workshop, network: Network, tuned: dict[str, TunedTask]
) -> None:
    """Tuning is repeatable, and depends on no state of the process."""
    torch.rand(7)
    again = tune_task(network, tuning_workshop.encoder, tuning_workshop.data[0], CONFIG)
    first = tuned[tuning_workshop.data[0].task.name]
    assert again.gain == first.gain
    assert all(torch.equal(first.tensors[name], tensor) for name, tensor in again.tensors.items())
