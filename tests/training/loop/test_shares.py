"""Shares: how often each task is drawn, in proportion, flattened, and between a floor and a cap."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.training.loop.shares import bounded_shares, planned_draws, task_shares, uncertainty_shares
from polytask.training.recipes.schema import SamplerConfig, SamplerName

PROPORTIONAL = SamplerConfig()
UNIFORM = SamplerConfig(name=SamplerName.UNIFORM)
TEMPERATURE = SamplerConfig(name=SamplerName.TEMPERATURE, temperature=2.0)
ANNEALED = SamplerConfig(name=SamplerName.ANNEALED)
EXACT = SamplerConfig(name=SamplerName.MT_UNCERTAINTY)
STEERED = SamplerConfig(name=SamplerName.TASK_UNCERTAINTY)


@given(st.lists(st.tuples(st.floats(0.01, 1), st.none() | st.floats(0, 1)), min_size=1, max_size=20))
def test_uncertainty_shares_are_shares(tasks: list[tuple[float, float | None]]) -> None:
    """For all entropies the shares have the same sum, none is zero, and a task without entropy keeps its share."""
    before, means = [share for share, _ in tasks], [mean for _, mean in tasks]
    after = uncertainty_shares(before, means)
    assert sum(after) == pytest.approx(sum(before))
    assert all(share > 0 for share in after)
    assert [b for b, m in zip(before, means, strict=True) if m is None] == [
        a for a, m in zip(after, means, strict=True) if m is None
    ]


def test_a_task_twice_as_unsure_has_twice_the_share() -> None:
    """Shares of tasks of equal size are proportional to their mean entropies."""
    assert uncertainty_shares([0.25] * 4, [0.8, 0.4, 0.4, None]) == pytest.approx([0.375, 0.1875, 0.1875, 0.25])


def test_proportional_shares_are_those_of_the_sizes() -> None:
    """Proportional shares are those of the sizes, throughout the run."""
    assert task_shares([10, 30, 40], PROPORTIONAL) == [0.125, 0.375, 0.5]
    assert task_shares([10, 30, 40], PROPORTIONAL, 1.0) == [0.125, 0.375, 0.5]


def test_uniform_shares_are_equal() -> None:
    """Uniform shares are equal for all sizes."""
    assert task_shares([1, 30, 400, 5000], UNIFORM) == [0.25] * 4


def test_temperature_flattens_the_shares() -> None:
    """Shares are n ** (1 / tau), normalised; tau 1 is proportional, and a cap bounds n."""
    assert task_shares([100, 400, 900], TEMPERATURE) == pytest.approx([10 / 60, 20 / 60, 30 / 60])
    flat = SamplerConfig(name=SamplerName.TEMPERATURE, temperature=1.0)
    assert task_shares([10, 30], flat) == task_shares([10, 30], PROPORTIONAL)
    capped = SamplerConfig(name=SamplerName.TEMPERATURE, temperature=2.0, cap=400)
    assert task_shares([100, 400, 900], capped) == pytest.approx([10 / 50, 20 / 50, 20 / 50])


def test_annealed_shares_go_from_the_sizes_towards_equal() -> None:
    """Shares are n ** (1 - 0.8 progress): proportional at the start, those of temperature 5 at the end."""
    assert task_shares([10, 30, 40], ANNEALED) == task_shares([10, 30, 40], PROPORTIONAL)
    assert task_shares([32, 243], ANNEALED, 0.5) == pytest.approx([1 / (1 + 7.59375**0.6), 1 / (1 + 7.59375**-0.6)])
    assert task_shares([32, 243], ANNEALED, 1.0) == pytest.approx([2 / 5, 3 / 5])


@given(
    st.lists(st.integers(1, 10**7), min_size=1, max_size=30),
    st.sampled_from(list(SamplerName)),
    st.floats(1, 20),
    st.integers(1, 10**6),
    st.floats(0, 1),
)
def test_shares_are_probabilities(
    sizes: list[int], name: SamplerName, temperature: float, cap: int, progress: float
) -> None:
    """For all sizes the shares add up to 1, and a larger task never has a smaller share."""
    shares = task_shares(sizes, SamplerConfig(name=name, temperature=temperature, cap=cap), progress)
    assert math.isclose(sum(shares), 1)
    ordered = [share for _, share in sorted(zip(sizes, shares, strict=True))]
    assert ordered == sorted(ordered)
    assert min(shares) > 0


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=30), st.integers(1, 10**7))
def test_no_share_is_below_its_floor(sizes: list[int], num_draws: int) -> None:
    """Every task gets a draw for each example and at least 100, or a tenth of an equal share; all other order stays."""
    shares = task_shares(sizes, PROPORTIONAL)
    raised = bounded_shares(shares, sizes, PROPORTIONAL, num_draws)
    assert math.isclose(sum(raised), 1)
    for size, before, after in zip(sizes, shares, raised, strict=True):
        floor = min(max(size, 100) / num_draws, 0.1 / len(sizes))
        assert after >= floor * (1 - 1e-9)
        assert after <= max(before, floor) * (1 + 1e-9)
    ordered = [share for _, share in sorted(zip(sizes, raised, strict=True))]
    assert ordered == pytest.approx(sorted(ordered))


def test_shares_above_the_floor_are_kept_to_the_bit() -> None:
    """Shares of which none is too small are returned unchanged, so runs draw what they drew without a floor."""
    shares = task_shares([1000, 3000, 7000], TEMPERATURE)
    assert bounded_shares(shares, [1000, 3000, 7000], TEMPERATURE, 20_000) == shares


def test_what_the_network_decides_is_not_planned() -> None:
    """Samplers that follow the network's uncertainty have no planned draws."""
    assert planned_draws([10, 20], EXACT, 100) is None
    assert planned_draws([10, 20], STEERED, 100) is None


@given(st.lists(st.integers(100, 10**6), min_size=2, max_size=20), st.floats(1, 3), st.floats(1, 9), st.floats(0, 1))
def test_a_task_is_drawn_within_its_passes(sizes: list[int], least: float, ratio: float, at: float) -> None:
    """With a length between both, every task gets at least `min_passes` and at most `max_passes` over its examples."""
    most = least * ratio
    num_draws = round(sum(sizes) * (least + (most - least) * at))
    config = TEMPERATURE.model_copy(update={"min_passes": least, "max_passes": most})
    shares = bounded_shares(task_shares(sizes, config), sizes, config, num_draws)
    assert math.isclose(sum(shares), 1)
    for size, share in zip(sizes, shares, strict=True):
        draws = share * num_draws
        assert draws >= least * size * (1 - 1e-3) - 1  # the number of draws is rounded
        assert draws <= max(most * size, 0.1 / len(sizes) * num_draws) * (1 + 1e-3) + 1


def test_bounds_that_cannot_be_kept_give_way_in_proportion() -> None:
    """In a run that is too short for all floors, or too long for all caps, each task gets its part of them."""
    short = bounded_shares([0.5, 0.5], [1000, 3000], TEMPERATURE.model_copy(update={"min_passes": 2.0}), 4000)
    assert short == pytest.approx([0.25, 0.75])
    long = bounded_shares([0.5, 0.5], [1000, 3000], TEMPERATURE.model_copy(update={"max_passes": 2.0}), 40_000)
    assert long == pytest.approx([0.25, 0.75])
