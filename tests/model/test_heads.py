"""Heads and pooling."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polytask.model.heads import Heads, Outputs, output_slices, pool_mean, pool_pairs
from polytask.model.tasks import Kind, Task


def _task(index: int, kind: Kind, num_labels: int) -> Task:
    labels = (
        tuple(f"label-{label}" for label in range(num_labels)) if kind in {Kind.CLASSIFICATION, Kind.TAGGING} else ()
    )
    paired = kind in {Kind.RANKING, Kind.SPAN}
    value_range = (0.0, 1.0) if kind is Kind.REGRESSION else None
    return Task(f"task-{index}", kind, 16, labels=labels, pair=paired, value_range=value_range)


_KINDS = st.sampled_from([Kind.CLASSIFICATION, Kind.TAGGING, Kind.SPAN, Kind.RANKING, Kind.REGRESSION])
_TASKS = st.lists(st.tuples(_KINDS, st.integers(2, 9)), min_size=1, max_size=12).map(
    lambda drawn: [_task(index, *kind_and_size) for index, kind_and_size in enumerate(drawn)]
)


@given(_TASKS)
def test_slices_share_out_all_columns(tasks: list[Task]) -> None:
    """The slices of one level follow each other without gap or overlap and fill that level's matrix."""
    slices = output_slices(tasks)
    heads = Heads(4, 4, tasks, dropout=0.0)
    for token_level, matrix in ((False, heads.sentence), (True, heads.token)):
        columns = [
            column
            for task, part in zip(tasks, slices, strict=True)
            if task.token_level is token_level
            for column in range(part.start, part.stop)
        ]
        assert columns == list(range(matrix.weight.shape[0]))
    assert [part.stop - part.start for part in slices] == [task.num_outputs for task in tasks]


@given(_TASKS, st.data())
def test_a_new_task_moves_no_old_slice(tasks: list[Task], data: st.DataObject) -> None:
    """A task added at the end does not change the slices of the others."""
    kept = data.draw(st.integers(0, len(tasks)))
    assert output_slices(tasks)[:kept] == output_slices(tasks[:kept])


@pytest.fixture
def heads() -> Heads:
    """Heads of two sentence-level and two token-level tasks of different widths."""
    torch.manual_seed(0)
    kinds = (Kind.CLASSIFICATION, Kind.TAGGING, Kind.RANKING, Kind.SPAN)
    return Heads(4, 4, [_task(index, kind, 3) for index, kind in enumerate(kinds)], dropout=0.5).eval()


def test_logits_are_one_product_each(heads: Heads) -> None:
    """Sentence logits come from the pooled states, token logits from every token's state."""
    pooled, states = torch.randn(2, 4), torch.randn(2, 5, 4)
    outputs = heads(pooled, states, token_level=True)
    torch.testing.assert_close(outputs.sentence, pooled @ heads.sentence.weight.T + heads.sentence.bias)
    torch.testing.assert_close(outputs.token, states @ heads.token.weight.T + heads.token.bias)
    assert (outputs.sentence.shape, outputs.token.shape) == ((2, 4), (2, 5, 5))


def test_token_logits_are_made_on_demand(heads: Heads) -> None:
    """Without a token-level row there are no token logits, and the sentence logits are the same."""
    pooled, states = torch.randn(2, 4), torch.randn(2, 5, 4)
    outputs = heads(pooled, states, token_level=False)
    assert outputs.token is None
    assert torch.equal(outputs.sentence, heads(pooled, states, token_level=True).sentence)


@pytest.mark.parametrize(("kind", "shapes"), [(Kind.RANKING, ((2, 1), (2, 5, 0))), (Kind.SPAN, ((2, 0), (2, 5, 2)))])
def test_a_level_may_have_no_tasks(kind: Kind, shapes: tuple[tuple[int, ...], ...]) -> None:
    """With tasks of one level only, the other level's logits have no columns."""
    heads = Heads(4, 4, [_task(0, kind, 2)], dropout=0.0)
    outputs = heads(torch.randn(2, 4), torch.randn(2, 5, 4), token_level=True)
    assert (outputs.sentence.shape, outputs.token.shape) == shapes


def test_dropout_acts_in_training_only(heads: Heads) -> None:
    """Both levels are random in training mode and exact in eval mode."""
    pooled, states = torch.randn(2, 4), torch.randn(2, 5, 4)
    exact = heads(pooled, states, token_level=True)
    heads.train()
    dropped = heads(pooled, states, token_level=True)
    assert not torch.equal(exact.sentence, dropped.sentence)
    assert not torch.equal(exact.token, dropped.token)


@pytest.mark.parametrize("token", [None, torch.ones(2, 3, 1, dtype=torch.bfloat16)])
def test_outputs_reach_the_cpu_in_float32(token: torch.Tensor | None) -> None:
    """Outputs of any dtype are moved to the CPU in float32, with token logits if there are some."""
    outputs = Outputs(torch.ones(2, 4, dtype=torch.bfloat16), token).to_cpu()
    assert outputs.sentence.dtype == torch.float32
    assert (outputs.token is None) == (token is None)
    assert outputs.token is None or outputs.token.dtype == torch.float32


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 2**16))
def test_pooling_is_the_mean_of_the_real_tokens(lengths: list[int], seed: int) -> None:
    """A row's pooled state is the mean over its tokens, for any content of the padding."""
    states = torch.randn(len(lengths), 6, 3, generator=torch.Generator().manual_seed(seed))
    pooled = pool_mean(states, torch.arange(6) < torch.tensor(lengths)[:, None])
    for row, length in enumerate(lengths):
        torch.testing.assert_close(pooled[row], states[row, :length].mean(0))


def test_pairs_are_compared_by_the_means_of_their_texts() -> None:
    """Beside the mean of all tokens there are |u - v| and u * v of the two texts' means, without padding."""
    states = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    segments = torch.tensor([[0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 1, 1]])
    pooled = pool_pairs(states, torch.arange(6) < torch.tensor([5, 6])[:, None], segments)
    for row, (length, second) in enumerate(((5, 3), (6, 2))):
        row_states = states[row, :length]
        u, v = row_states[:second].mean(0), row_states[second:].mean(0)
        torch.testing.assert_close(pooled[row], torch.cat([row_states.mean(0), (u - v).abs(), u * v]))


def test_a_single_text_has_nothing_to_compare() -> None:
    """A row of one text has its mean and zeros in any batch, and its gradients are finite."""
    states = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    segments = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1]])
    is_token = torch.arange(4) < torch.tensor([3, 4])[:, None]
    pooled = pool_pairs(states, is_token, segments)
    torch.testing.assert_close(pooled[:1], torch.cat([pool_mean(states, is_token)[:1], torch.zeros(1, 6)], dim=1))
    torch.testing.assert_close(pooled[:1], pool_pairs(states[:1], is_token[:1], segments[:1]))
    torch.autograd.backward(pooled.sum())
    assert states.grad is not None
    assert bool(states.grad.isfinite().all())
