"""Allowances: what a key may ask, in one process and in several that share its limits."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.service.config.api_keys import Key
from polytask.service.errors import ConcurrencyLimited, RateLimited
from polytask.service.web.middleware.rate_limits import ProcessIndex, RateLimiter, rate_limiters

HASH = "0" * 64


def in_one_process(**limits: float) -> RateLimiter:
    """The allowance of a key with these limits."""
    return rate_limiters([Key("web", HASH, **limits)])["web"]  # type: ignore[arg-type]


def in_processes(folder: Path, of: int, **limits: float) -> list[RateLimiter]:
    """The allowance of one key as each of several processes has it."""
    key = Key("web", HASH, **limits)  # type: ignore[arg-type]
    return [rate_limiters([key], ProcessIndex(folder / "allowances", number, of))["web"] for number in range(of)]


def lets_in(limiter: RateLimiter, now: float) -> bool:
    """Whether a request that comes now enters; it ends at once."""
    try:
        limiter.acquire(now)
    except RateLimited:
        return False
    limiter.release(0)
    return True


def test_a_key_without_limits_has_no_allowance() -> None:
    """What is not limited costs nothing."""
    assert rate_limiters([Key("web", HASH)]) == {}


def test_a_burst_is_let_in_and_then_one_each_time_a_token_is_there() -> None:
    """The bucket is full at first and fills with the rate."""
    limiter, now = in_one_process(requests_per_s=10, burst=3), time.monotonic()
    assert [lets_in(limiter, now) for _ in range(5)] == [True] * 3 + [False] * 2
    assert [lets_in(limiter, now + 0.1 * step) for step in (0.5, 1, 1.5, 2, 9, 9, 9, 9)] == [
        False,
        True,
        False,
        True,
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(("rate", "at_once"), [(10.0, 10), (1.0, 1), (0.2, 1), (2.5, 2)])
def test_without_a_burst_it_is_a_second_s_worth(rate: float, at_once: int) -> None:
    """And one request at least, or a slow rate would let in none."""
    limiter, now = in_one_process(requests_per_s=rate), time.monotonic()
    assert sum(lets_in(limiter, now) for _ in range(20)) == at_once


arrivals = st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 2)), min_size=1, max_size=60)


@settings(max_examples=40)  # each opens three files
@given(arrivals, st.floats(0.5, 50), st.integers(1, 8))
def test_over_all_processes_no_stretch_of_time_has_more_than_its_tokens(
    steps: list[tuple[float, int]], rate: float, burst: int
) -> None:
    """Between any two requests that were let in, wherever they came, there are no more than burst and rate allow."""
    with TemporaryDirectory() as folder:
        processes = in_processes(Path(folder), 3, requests_per_s=rate, burst=burst)
        now, entered = time.monotonic(), []
        for pause, number in steps:
            now += pause
            if lets_in(processes[number], now):
                entered.append(now)
    for first, start in enumerate(entered):
        for last, end in enumerate(entered[first:], start=first):
            assert last - first + 1 <= burst + rate * (end - start) + 1e-3


@given(arrivals, st.floats(0.05, 50), st.integers(1, 8))
def test_who_comes_back_when_told_to_is_let_in_and_not_a_second_earlier(
    steps: list[tuple[float, int]], rate: float, burst: int
) -> None:
    """Retry-After is right to the second, which is all that it can say."""
    limiter, now = in_one_process(requests_per_s=rate, burst=burst), time.monotonic()
    for pause, _ in steps:
        now += pause
        if lets_in(limiter, now):
            continue
        with pytest.raises(RateLimited) as refused:
            limiter.acquire(now)
        seconds = refused.value.retry_after_s
        assert seconds is not None
        assert seconds == 1 or not lets_in(limiter, now + seconds - 1 - 1e-3)
        now += seconds
        assert lets_in(limiter, now)


def test_places_are_counted_over_all_processes(tmp_path: Path) -> None:
    """As many requests as the key may have under way, wherever they are; one that ends makes room anywhere."""
    first, second = in_processes(tmp_path, 2, concurrent=3)
    for limiter in (first, first, second):
        limiter.acquire(0)
    for limiter in (first, second):
        with pytest.raises(ConcurrencyLimited):
            limiter.acquire(0)
    first.release(0.1)
    second.acquire(0)
    with pytest.raises(ConcurrencyLimited):
        first.acquire(0)


def test_requests_of_a_process_that_died_are_forgotten_and_its_tokens_are_not(tmp_path: Path) -> None:
    """Who starts in its place has none under way, and the bucket is as empty as it was."""
    limits = {"concurrent": 2, "requests_per_s": 1.0, "burst": 3}
    first, second = in_processes(tmp_path, 2, **limits)
    now = time.monotonic()
    first.acquire(now)
    second.acquire(now)
    successor = rate_limiters([Key("web", HASH, **limits)], ProcessIndex(tmp_path / "allowances", 0, 2))["web"]  # type: ignore[arg-type]
    successor.acquire(now)
    with pytest.raises(ConcurrencyLimited):
        second.acquire(now)
    second.release(0)
    with pytest.raises(RateLimited):
        second.acquire(now)


def test_a_request_that_is_refused_for_want_of_a_place_takes_no_token() -> None:
    """It is not paid for twice."""
    limiter, now = in_one_process(requests_per_s=1, burst=2, concurrent=1), time.monotonic()
    limiter.acquire(now)
    for _ in range(5):
        with pytest.raises(ConcurrencyLimited):
            limiter.acquire(now)
    limiter.release(0)
    assert lets_in(limiter, now)
    assert not lets_in(limiter, now)


def test_a_place_is_expected_when_requests_of_the_key_usually_end() -> None:
    """With four under way that take eight seconds each, one ends every two."""
    limiter = in_one_process(concurrent=4)
    for _ in range(200):
        limiter.acquire(0)
        limiter.release(8)
    for _ in range(4):
        limiter.acquire(0)
    with pytest.raises(ConcurrencyLimited) as refused:
        limiter.acquire(0)
    assert refused.value.retry_after_s == 2


def test_keys_do_not_share_their_limits(tmp_path: Path) -> None:
    """Each has a bucket and places of its own, in the order of the lines."""
    keys = [Key(name, HASH, requests_per_s=1, burst=1, concurrent=1) for name in ("one", "two", "three")]
    found = rate_limiters(keys, ProcessIndex(tmp_path / "allowances", 1, 2))
    now = time.monotonic()
    for limiter in found.values():
        limiter.acquire(now)
    for limiter in found.values():
        with pytest.raises(ConcurrencyLimited):
            limiter.acquire(now)
