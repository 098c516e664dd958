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


def test_long_bodies_that_are_cut_have_an_estimate_of_their_own() -> None:
    """Half a megabyte of which 128 tokens are read is not expected to have a token in four bytes, nor are short bodies to have less."""
    estimator = TokenEstimator()
    for num_bytes, num_tokens in ((500_000, 128), (1000, 250)):
        estimator.update(num_bytes, num_tokens)
    assert estimator.estimate(500_000) < 2000
    assert estimator.estimate(1000) == 250


def test_an_estimate_does_not_refuse_bodies_for_ever() -> None:
    """Of bodies of one size, one in ten seconds is to be tokenised, whatever happens to others."""
    estimator = TokenEstimator()
    tried = []
    for second in range(60):
        estimator.is_to_be_tried(1000, second)
        if estimator.is_to_be_tried(400_000, second):
            tried.append(second)
    assert tried == [0, 11, 22, 33, 44, 55]


def test_pending_tokens_are_those_added_and_not_removed() -> None:
    """An estimate that changes in the meantime leaves no remainder."""
    estimator = TokenEstimator()
    first = estimator.estimate(4000)
    assert first == 1000
    estimator.add(first)
    estimator.add(7)
    estimator.update(100, 90)
    assert estimator.pending_tokens == first + 7
    estimator.remove(first)
    estimator.remove(7)
    assert estimator.pending_tokens == 0
