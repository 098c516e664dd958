"""Tuned rows: what a task adds by itself on a trunk that all share."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from polytask.model.config import AlignmentForm, BottleneckForm, NetworkConfig, Pooling, Product
from polytask.model.encoder import JoinedTables
from polytask.model.network import Network, freeze_backbone, parameter_counts
from polytask.model.unfolding import with_tuned_rows
from tests.model.support.networks import build, one_row, random_batch, randomise_conditioning, run
from tests.support import tiny

LENGTHS = (7, 31, 1, 23, 9, 4, 12)
EVERY = tuple(Product)


def _network(**changes: Any) -> Network:
    network = build(replace(tiny.config(), **changes), tiny.tasks())
    return randomise_conditioning(network, std=0.3)


def _tuned(network: Network, task_ids: tuple[int, ...], rank: int = 3) -> Network:
    """The network with rows of those tasks that are tuned to anything."""
    tuned = with_tuned_rows(network, task_ids, rank=rank, layers=(1,), products=EVERY)
    assert tuned.tuned_rows is not None
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in tuned.tuned_rows.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return tuned


FORMS: dict[str, dict[str, Any]] = {
    "ours": {},
    "matrix": {"alignment_form": AlignmentForm.MATRIX, "bottleneck_form": BottleneckForm.ADAPTER},
    "upper": {
        "alignment_layer": 1,
        "conditional_attention": (1,),
        "conditional_layer_norm": (1,),
        "conditional_bottleneck": (1,),
    },
    "ladder": {"bottleneck_form": BottleneckForm.LADDER, "pooling": Pooling.CLS},
    "pooling": {"conditional_pooling": True},
    "plain": {
        "conditional_alignment": False,
        "conditional_attention": (),
        "conditional_layer_norm": (),
        "conditional_bottleneck": (),
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_unfolding_changes_no_answer(form: str) -> None:
    """Until its row is tuned, a task with a row of its own answers as before, to the bit, like all others."""
    network = _network(**FORMS[form])
    unfolded = with_tuned_rows(network, (1, 4), rank=2, layers=(0, 1), products=EVERY)
    batch = random_batch(network.config, LENGTHS, tuple(range(7)))
    before, after = run(network, batch), run(unfolded, batch)
    assert torch.equal(before.sentence, after.sentence)
    assert before.token is not None
    assert after.token is not None
    assert torch.equal(before.token, after.token)


@pytest.mark.parametrize("form", FORMS)
def test_other_tasks_answer_as_before_to_the_bit(form: str) -> None:
    """Tuning two rows changes the logits of their tasks, and no bit of those of the others."""
    network = _network(**FORMS[form])
    batch = random_batch(network.config, LENGTHS, tuple(range(7)))
    before, after = run(network, batch).sentence, run(_tuned(network, (1, 4)), batch).sentence
    same = [torch.equal(*rows) for rows in zip(before, after, strict=True)]
    assert same == [task_id not in {1, 4} for task_id in range(7)]


def test_a_residual_is_a_change_of_the_weights() -> None:
    """A task with a residual answers as a network whose weights have the product of `up` and `down` added."""
    network = _network()
    tuned = with_tuned_rows(network, (2,), rank=4, layers=(0, 1), products=EVERY)
    assert tuned.tuned_rows is not None
    merged = copy.deepcopy(network)
    with torch.no_grad():
        for layer, module in enumerate(merged.encoder.layers):
            for product in EVERY:
                down = tuned.tuned_rows.get_parameter(f"layer_{layer}_{product}_down")
                up = tuned.tuned_rows.get_parameter(f"layer_{layer}_{product}_up")
                torch.nn.init.normal_(up, std=0.1)
                getattr(module, product).weight.add_((down[0] @ up[0]).T)
    batch = random_batch(network.config, LENGTHS, (2,) * len(LENGTHS))
    expected, found = run(merged, batch), run(tuned, batch)
    torch.testing.assert_close(found.sentence, expected.sentence, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found.sentence, run(network, batch).sentence, atol=1e-2)


def test_a_mixed_batch_has_the_answers_of_its_rows_alone() -> None:
    """Rows of tuned and other tasks in one batch have the logits that they have alone, also with joined tables."""
    tuned = _tuned(_network(), (0, 3, 6))
    batch = random_batch(tuned.config, LENGTHS, tuple(range(7)))
    together = run(tuned, batch).sentence
    with torch.inference_mode():
        joined = tuned.eval()(batch, JoinedTables(tuned.condition())).sentence
    torch.testing.assert_close(joined, together, atol=1e-6, rtol=0)
    for row in range(len(LENGTHS)):
        alone = run(tuned, one_row(batch, row)).sentence
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


def test_rows_are_added_and_kept() -> None:
    """Unfolding another task, with more rank and layers, changes no answer, and a task keeps the row that it has."""
    once = _tuned(_network(), (4,))
    twice = with_tuned_rows(once, (4, 0), rank=5, layers=(0,), products=(Product.VALUE,))
    assert (once.config.task_rows, twice.config.task_rows) == ((0, 1, 2, 3, 7, 5, 6), (8, 1, 2, 3, 7, 5, 6))
    assert (twice.config.residual_rank, twice.config.residual_layers) == (5, (0, 1))
    batch = random_batch(once.config, LENGTHS, tuple(range(7)))
    torch.testing.assert_close(run(twice, batch).sentence, run(once, batch).sentence, atol=1e-5, rtol=0)


def test_a_shared_row_is_left_to_the_others() -> None:
    """A task that shares a tuned row with another gets one of its own; the other keeps the shared one."""
    network = _network(joint_rows=7, task_rows=(0, 7, 7, 3, 4, 5, 6))
    assert with_tuned_rows(network, (1,)).config.task_rows == (0, 8, 7, 3, 4, 5, 6)


def test_what_is_below_the_first_conditioned_layer_is_shared() -> None:
    """The states there are the same for every task, and the rest of the forward goes on from them."""
    network = _network(**FORMS["upper"])
    assert network.config.first_conditioned_layer == 1
    batches = [random_batch(network.config, (9, 9), ids) for ids in ((0, 1), (5, 6))]
    with torch.inference_mode():
        states = [network.eval().lower(batch) for batch in batches]
        assert torch.equal(*states)
        outputs = network.forward_from(states[1], batches[1], network.condition())
    assert torch.equal(outputs.sentence, run(network, batches[1]).sentence)


def test_only_the_rows_are_added() -> None:
    """Tuned rows count as conditional parameters; a frozen backbone leaves them trainable."""
    network = _network()
    freeze_backbone(network, 2)
    tuned = _tuned(network, (1,))
    assert tuned.tuned_rows is not None
    added = sum(parameter.numel() for parameter in tuned.tuned_rows.parameters())
    before, after = parameter_counts(network), parameter_counts(tuned)
    assert (after.conditional - before.conditional, after.backbone) == (added, before.backbone)
    assert after.trainable - before.trainable == added


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_rows": (0, 1)}, "joint_rows"),
        ({"joint_rows": 2, "task_rows": (0, 3)}, "must read every row from 2 on"),
        ({"joint_rows": 2, "task_rows": (0, -1)}, "none below 0"),
        ({"residual_rank": 4}, "residual_layers and residual_products, or none"),
        ({"residual_layers": (0,), "residual_products": EVERY}, "residual needs residual_rank"),
        ({"residual_rank": 1, "residual_layers": (9,), "residual_products": EVERY}, "names a layer outside"),
        ({"alignment_layer": 2}, "alignment_layer 2 is outside 0..1"),
    ],
)
def test_sizes_of_rows_fit(changes: dict[str, Any], message: str) -> None:
    """Rows that nobody reads and residuals without a rank are refused."""
    with pytest.raises(ValueError, match=message):
        replace(tiny.config(), **changes)


def test_every_task_has_a_row() -> None:
    """A network refuses rows for another number of tasks."""
    config: NetworkConfig = replace(tiny.config(), joint_rows=2, task_rows=(0, 1))
    with pytest.raises(ValueError, match="task_rows has 2 entries for 7 tasks"):
        Network(config, tiny.tasks())
