"""Calibration: the budget that meets the target, on devices whose cost is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.service.engine.calibration import best_of_repeats, calibrate

MOST = 262_144


def device(fixed_s: float, token_s: float, pair_s: float = 0.0) -> Callable[[int, int], float]:
    """A device on which a batch has a fixed cost, a cost per token, and a cost per pair of tokens of a row."""
    return lambda rows, length: fixed_s + rows * length * (token_s + pair_s * length)


@given(
    st.floats(0, 5e-3),
    st.floats(1e-7, 1e-3),
    st.floats(0, 1e-6),
    st.integers(1, 512),
    st.integers(1, 512),
    st.floats(1e-3, 0.2),
)
def test_no_batch_takes_longer_than_the_target_or_the_longest_row(
    fixed_s: float, token_s: float, pair_s: float, longest: int, max_rows: int, target_s: float
) -> None:
    """Batches of the measured lengths keep to the target, and the budget uses most of the target."""
    seconds = device(fixed_s, token_s, pair_s)
    found = calibrate(seconds, longest=longest, max_rows=max_rows, target_s=target_s, most_tokens=MOST)
    lengths = {min(length, longest) for length in (32, 128, longest)}
    for length in lengths:
        rows = max(1, min(max_rows, found.token_budget // length))
        assert seconds(rows, length) <= 1.0001 * max(target_s, seconds(1, longest))
    if fixed_s < target_s / 2 and found.token_budget < min(MOST, max_rows * longest):
        more = found.token_budget * 4 // 3 + 1
        assert any(fixed_s + more * (token_s + pair_s * length) > target_s for length in lengths)


def test_a_start_on_a_busy_machine_leaves_batches_of_some_size() -> None:
    """However slow the device seems, the budget is at least the longest row."""
    found = calibrate(device(0.5, 0.01), longest=384, max_rows=32, target_s=0.05, most_tokens=MOST)
    assert (found.token_budget, found.forward_tokens) == (384, 50)


def test_the_fixed_cost_of_a_forward_is_in_tokens() -> None:
    """A fixed cost of 3 ms at 10 microseconds a token is 300 tokens; without a fixed cost a minimum covers work that is not timed."""
    limits = {"longest": 256, "max_rows": 64, "target_s": 0.05, "most_tokens": MOST}
    assert calibrate(device(3e-3, 1e-5), **limits).forward_tokens == pytest.approx(300, abs=1)  # type: ignore[arg-type]
    assert calibrate(device(0, 1e-5), **limits).forward_tokens == 16  # type: ignore[arg-type]


def test_the_speed_is_the_highest_with_the_fixed_cost_as_work() -> None:
    """A device that takes 3 ms and 10 microseconds a token does 100,000 tokens of work a second, in batches of any size."""
    found = calibrate(device(3e-3, 1e-5), longest=256, max_rows=64, target_s=0.05, most_tokens=MOST)
    assert found.speed == pytest.approx(1e5, rel=0.01)


def test_a_batch_that_does_not_fit_bounds_the_budget() -> None:
    """A batch that does not fit counts as too slow; if a single row does not fit, calibration fails."""

    def seconds(rows: int, length: int) -> float:
        if rows * length > 3000:
            raise MemoryError
        return 1e-6

    assert calibrate(seconds, longest=128, max_rows=256, target_s=1, most_tokens=MOST).token_budget in range(1024, 3001)
    with pytest.raises(MemoryError):
        calibrate(seconds, longest=4000, max_rows=256, target_s=1, most_tokens=MOST)


def test_a_device_that_is_always_fast_enough_gets_the_largest_batches() -> None:
    """The budget of a very fast device is limited by the number of rows or by the given bound."""
    found = calibrate(device(1e-6, 0), longest=100, max_rows=8, target_s=1, most_tokens=MOST)
    assert (found.token_budget, found.forward_tokens) == (800, 256)
    assert calibrate(device(1e-6, 0), longest=100, max_rows=80, target_s=1, most_tokens=700).token_budget == 700


def test_noise_does_not_shrink_the_budget() -> None:
    """Interrupted runs give nearly the same budget as undisturbed ones."""
    generator, now = np.random.default_rng(0), 0.0
    exact = device(1e-3, 1e-5)

    def seconds(rows: int, length: int) -> float:
        def run() -> None:
            nonlocal now
            now += exact(rows, length) * (1 if generator.random() < 0.7 else 5)

        return best_of_repeats(run, 0.05, clock=lambda: now)

    limits = {"longest": 256, "max_rows": 64, "target_s": 0.05, "most_tokens": MOST}
    undisturbed = calibrate(exact, **limits)  # type: ignore[arg-type]
    assert calibrate(seconds, **limits).token_budget == pytest.approx(undisturbed.token_budget, rel=0.05)  # type: ignore[arg-type]


@pytest.mark.parametrize(("run_s", "runs"), [(0.001, 4), (0.05, 4), (1.0, 2)])
def test_slow_shapes_are_run_twice_only(run_s: float, runs: int) -> None:
    """A shape that takes long is run only twice, so that the start stays short."""
    times = iter(run_s * step for step in range(100))
    count = 0

    def run() -> None:
        nonlocal count
        count += 1

    assert best_of_repeats(run, 0.05, clock=lambda: next(times)) == pytest.approx(run_s)
    assert count == runs
