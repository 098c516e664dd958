"""Dropout against its definition, in the mean and in each draw."""

from __future__ import annotations

import pytest
import torch

from polytask.model.dropout import Dropout


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
