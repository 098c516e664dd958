"""Kernels of attention and dropout, against their definitions."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from polytask.model.kernels import Dropout, attend


def _inputs(rows: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key, value of two heads of size 4, and a mask with a bias and with padding in every row but the first."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, rows, 2, length, 4, generator=generator)
    mask = torch.randn(rows, 1, length, length, generator=generator)
    for row in range(1, rows):
        mask[row, :, :, max(1, length - row) :] = float("-inf")
    return query, key, value, mask


def _literal(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    weights = (torch.einsum("bhid,bhjd->bhij", query, key) / query.shape[-1] ** 0.5 + mask).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", weights, value)


@given(st.integers(1, 4), st.integers(1, 9), st.booleans())
def test_attention_is_its_definition(rows: int, length: int, learning: bool) -> None:
    """With and without gradients the result is softmax(q k / sqrt(d) + mask) v."""
    inputs = _inputs(rows, length)
    with torch.set_grad_enabled(learning):
        found = attend(*inputs, dropout=0.0)
    torch.testing.assert_close(found, _literal(*inputs), atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_definition() -> None:
    """Query, key, value and mask get the gradients of the definition."""
    gradients = []
    for function in (partial(attend, dropout=0.0), _literal):
        query, key, value, mask = (tensor.requires_grad_() for tensor in _inputs(3, 6))
        torch.autograd.backward(function(query, key, value, mask).square().sum())
        gradients.append([query.grad, key.grad, value.grad, mask.grad])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("learning", [True, False])
def test_dropout_is_on_the_weights(learning: bool) -> None:
    """With dropout the mean over many draws is the result without it, and single draws differ."""
    query, key, value, mask = _inputs(2, 5)
    torch.manual_seed(0)
    with torch.set_grad_enabled(learning):
        draws = torch.stack([attend(query, key, value, mask, dropout=0.3) for _ in range(3000)])
    assert not torch.equal(draws[0], draws[1])
    torch.testing.assert_close(draws.mean(0), _literal(query, key, value, mask), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_is_dropped_and_the_rest_scaled(p: float, dtype: torch.dtype) -> None:
    """Kept elements are all scaled alike, the dropped share is p to a 256th, and the mean is unchanged."""
    torch.manual_seed(0)
    size = 200_003  # not a multiple of eight
    found = Dropout(p)(torch.ones(size, dtype=dtype)).float()
    assert found.unique().numel() == 2
    dropped = round(p * 256) / 256
    sigma = (dropped * (1 - dropped) / size) ** 0.5
    assert abs(float((found == 0).float().mean()) - dropped) < 4 * sigma
    assert float(found.mean()) == pytest.approx(1, abs=0.02)


def test_every_place_is_dropped_as_often() -> None:
    """All eight bytes of a draw are fair, also the one with the sign."""
    torch.manual_seed(0)
    found = Dropout(0.5)(torch.ones(20_000, 8))
    shares = (found == 0).float().mean(0)
    assert bool(((shares - 0.5).abs() < 4 * (0.25 / 20_000) ** 0.5).all())


def test_gradients_pass_where_states_do() -> None:
    """A dropped element has no gradient, a kept one has the gradient of its scale."""
    states = torch.ones(1000, requires_grad=True)
    found = Dropout(0.3)(states)
    found.sum().backward()
    assert states.grad is not None
    assert torch.equal(states.grad, found.detach())


@pytest.mark.parametrize("module", [Dropout(0.3).eval(), Dropout(0.0)])
def test_it_can_be_off(module: Dropout) -> None:
    """In eval mode, and with p 0, states pass unchanged and no random number is drawn."""
    states, before = torch.randn(50), torch.get_rng_state()
    assert torch.equal(module(states), states)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_seed_gives_one_mask() -> None:
    """The mask follows torch's random state, so that a resumed run is the same."""
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(Dropout(0.5)(torch.ones(100)))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
