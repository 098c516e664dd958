"""Token estimates: how many tokens a request will have, from its size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from polytask.service.prediction.token_estimate import TokenEstimator


@given(st.integers(1, 10), st.integers(200, 5000))
def test_the_bytes_of_a_token_are_learnt(bytes_per_token: int, num_bytes: int) -> None:
    """After a thousand requests of one language the estimate fits it, whatever the first guess was."""
    estimator = TokenEstimator()
    for _ in range(1000):
        estimator.update(num_bytes, num_bytes // bytes_per_token)
    assert abs(estimator.estimate(num_bytes) - num_bytes / bytes_per_token) <= 1 + 0.02 * num_bytes


def test_pending_tokens_are_those_added_and_not_removed() -> None:
    """An estimate that changes in the meantime leaves no remainder."""
    estimator = TokenEstimator()
    first = estimator.estimate(4000)
    estimator.add(first)
    estimator.add(7)
    estimator.update(100, 90)
    assert estimator.pending_tokens == first + 7
    estimator.remove(first)
    estimator.remove(7)
    assert estimator.pending_tokens == 0
