"""What is expected of a request before it is tokenised."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from polytask.service.prediction.token_estimate import TokenEstimator


@given(st.integers(1, 10), st.integers(200, 5000))
def test_it_learns_how_many_bytes_a_token_has(bytes_per_token: int, num_bytes: int) -> None:
    """After some hundred requests of one language it knows it, whatever it began with."""
    expectation = TokenEstimator()
    for _ in range(1000):
        expectation.learn(num_bytes, num_bytes // bytes_per_token)
    assert abs(expectation.of(num_bytes) - num_bytes / bytes_per_token) <= 1 + 0.02 * num_bytes


def test_what_is_in_hand_is_what_has_begun_and_not_ended() -> None:
    """Expectations that change meanwhile leave nothing behind."""
    expectation = TokenEstimator()
    first = expectation.of(4000)
    expectation.begin(first)
    expectation.begin(7)
    expectation.learn(100, 90)
    assert expectation.in_hand == first + 7
    expectation.end(first)
    expectation.end(7)
    assert expectation.in_hand == 0
