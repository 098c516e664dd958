"""Length of a run: planned examples, the limits, and lengths that do not go together."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.training.loop.length import check_passes, length_line, limit_seconds, patience, planned_examples
from polytask.training.recipes.schema import LengthConfig, RecipeError, SamplerConfig

_PLAIN = SamplerConfig()


def test_a_length_in_the_recipe_is_kept() -> None:
    """`examples` is the number itself, `passes` that many times all examples; neither has a limit or ends early."""
    for length, planned in ((LengthConfig(examples=70), 70), (LengthConfig(passes=2.5), 1000)):
        assert planned_examples([100, 300], _PLAIN, length) == planned
        assert (limit_seconds(length), patience(length)) == (math.inf, 0)


def test_the_run_chooses_its_length() -> None:
    """Without a number large tasks get more draws and fewer passes, tiny ones twenty, and the run may end early."""
    length = LengthConfig()
    assert planned_examples([10], _PLAIN, length) == 200
    assert planned_examples([4000], _PLAIN, length) == pytest.approx(3.16 * 4000, rel=0.01)
    assert planned_examples([10**6], _PLAIN, length) == pytest.approx(0.2 * 10**6)
    assert limit_seconds(length) == 600
    assert patience(length) > 0


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20), st.floats(0, 2), st.floats(0, 5))
def test_a_chosen_length_keeps_to_the_passes(sizes: list[int], least: float, more: float) -> None:
    """A length that the run chooses always fits `min_passes` and `max_passes`."""
    sampler = SamplerConfig(min_passes=least, max_passes=max(least, 0.01) + more)
    planned = planned_examples(sizes, sampler, LengthConfig())
    assert least * sum(sizes) - 1 <= planned <= (max(least, 0.01) + more) * sum(sizes) + 1


def test_limits_of_the_recipe_go_first() -> None:
    """`minutes` and `patience` are those of the recipe, and 0 stands for neither."""
    assert limit_seconds(LengthConfig(minutes=0.5)) == limit_seconds(LengthConfig(examples=9, minutes=0.5)) == 30
    assert limit_seconds(LengthConfig(minutes=0)) == math.inf
    assert (patience(LengthConfig(patience=0)), patience(LengthConfig(examples=9, patience=2))) == (0, 2)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (
            SamplerConfig(min_passes=3.0),
            "sampler.min_passes: 3 passes over the 400 training examples are 1,200 draws, .* has 800;",
        ),
        (
            SamplerConfig(max_passes=1.0),
            "sampler.max_passes: 1 passes over the 400 training examples are 400 draws, .* has 800;",
        ),
    ],
)
def test_passes_that_do_not_fit_are_an_error(sampler: SamplerConfig, message: str) -> None:
    """A run that is too short for the fewest passes, or too long for the most, is refused with both numbers."""
    with pytest.raises(RecipeError, match=message):
        check_passes([100, 300], sampler, LengthConfig(examples=800))
    check_passes([100, 300], SamplerConfig(min_passes=2.0, max_passes=2.0), LengthConfig(examples=800))


def test_the_length_is_said() -> None:
    """The line before training has the number of examples, and the limits if there are any."""
    assert length_line(LengthConfig(examples=1200), 1200) == "trains on 1,200 examples"
    line = length_line(LengthConfig(), 71_120)
    assert "71,120 examples, for 10 minutes at most (`minutes` in [length])" in line
    assert "ends earlier if" in line
