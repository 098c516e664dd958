"""Paired gain: the error of a difference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from polytask.training.evaluation.paired_gain import PairedGain, Score, paired_gain


def _mean(values: np.ndarray) -> Score:
    def score(indices: Sequence[int]) -> float:
        return float(values[list(indices)].mean())

    return score


def test_the_error_of_a_mean_is_that_of_the_mean_difference() -> None:
    """For a mean over examples the bootstrap finds the standard error of the paired differences, not that of the values."""
    generator = np.random.default_rng(1)
    before = generator.normal(0, 10, 400)
    after = before + generator.normal(0.1, 1, 400)
    gain = paired_gain("accuracy", _mean(before), _mean(after), 400)
    assert gain.error == pytest.approx(np.std(after - before) / 20, rel=0.2)
    assert gain.after - gain.before == pytest.approx((after - before).mean())


def test_equal_systems_gain_nothing_for_sure() -> None:
    """Without any difference there is neither gain nor error, and nothing is sure."""
    values = np.arange(10.0)
    gain = paired_gain("accuracy", _mean(values), _mean(values), 10)
    assert (gain.before, gain.error, gain.is_sure) == (gain.after, 0.0, False)


@pytest.mark.parametrize(("after", "sure"), [(0.52, True), (0.51, False), (0.505, False), (0.3, False)])
def test_more_than_one_error_is_sure(after: float, sure: bool) -> None:
    """A gain is sure above one standard error only."""
    assert PairedGain("f1", 0.5, after, 0.0101).is_sure is sure
