"""Rate limiters in one process and in several that share their limits."""

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
    """The limiter of a key with these limits."""
    return rate_limiters([Key("web", HASH, **limits)])["web"]  # type: ignore[arg-type]


def in_processes(folder: Path, of: int, **limits: float) -> list[RateLimiter]:
    """The limiter of one key in each of several processes."""
    key = Key("web", HASH, **limits)  # type: ignore[arg-type]
    return [rate_limiters([key], ProcessIndex(folder / "rate_limits", number, of))["web"] for number in range(of)]


def admits(limiter: RateLimiter, now: float) -> bool:
    """Whether a request at this time is admitted; it ends at once."""
    try:
        limiter.acquire(now)
    except RateLimited:
        return False
    limiter.release(0)
    return True


def test_a_key_without_limits_has_no_limiter() -> None:
    """A key without limits costs nothing."""
    assert rate_limiters([Key("web", HASH)]) == {}


def test_a_burst_is_admitted_and_then_one_request_per_token() -> None:
    """The bucket is full at first and fills at the rate of the key."""
    limiter, now = in_one_process(requests_per_s=10, burst=3), time.monotonic()
    assert [admits(limiter, now) for _ in range(5)] == [True] * 3 + [False] * 2
    assert [admits(limiter, now + 0.1 * step) for step in (0.5, 1, 1.5, 2, 9, 9, 9, 9)] == [
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
def test_the_default_burst_is_the_rate_of_one_second(rate: float, at_once: int) -> None:
    """The default burst is at least one request, or a slow rate would admit none."""
    limiter, now = in_one_process(requests_per_s=rate), time.monotonic()
    assert sum(admits(limiter, now) for _ in range(20)) == at_once


arrivals = st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 2)), min_size=1, max_size=60)


@settings(max_examples=40)  # each opens three files
@given(arrivals, st.floats(0.5, 50), st.integers(1, 8))
def test_no_interval_has_more_requests_than_tokens_over_all_processes(
    steps: list[tuple[float, int]], rate: float, burst: int
) -> None:
    """Between any two admitted requests, in whatever process, there are no more than burst and rate allow."""
    with TemporaryDirectory() as folder:
        processes = in_processes(Path(folder), 3, requests_per_s=rate, burst=burst)
        now, entered = time.monotonic(), []
        for pause, number in steps:
            now += pause
            if admits(processes[number], now):
                entered.append(now)
    for first, start in enumerate(entered):
        for last, end in enumerate(entered[first:], start=first):
            assert last - first + 1 <= burst + rate * (end - start) + 1e-3


@given(arrivals, st.floats(0.05, 50), st.integers(1, 8))
def test_a_request_after_retry_after_is_admitted_and_not_a_second_earlier(
    steps: list[tuple[float, int]], rate: float, burst: int
) -> None:
    """Retry-After is exact to the second, which is its resolution."""
    limiter, now = in_one_process(requests_per_s=rate, burst=burst), time.monotonic()
    for pause, _ in steps:
        now += pause
        if admits(limiter, now):
            continue
        with pytest.raises(RateLimited) as refused:
            limiter.acquire(now)
        seconds = refused.value.retry_after_s
        assert seconds is not None
        assert seconds == 1 or not admits(limiter, now + seconds - 1 - 1e-3)
        now += seconds
        assert admits(limiter, now)


def test_concurrent_requests_are_counted_over_all_processes(tmp_path: Path) -> None:
    """A key has its limit of requests in flight over all processes; one that ends makes room in any of them."""
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


def test_requests_of_a_dead_process_are_forgotten_and_its_tokens_are_not(tmp_path: Path) -> None:
    """The successor of a process has no requests in flight, and finds the bucket as empty as it was."""
    limits = {"concurrent": 2, "requests_per_s": 1.0, "burst": 3}
    first, second = in_processes(tmp_path, 2, **limits)
    now = time.monotonic()
    first.acquire(now)
    second.acquire(now)
    successor = rate_limiters([Key("web", HASH, **limits)], ProcessIndex(tmp_path / "rate_limits", 0, 2))["web"]  # type: ignore[arg-type]
    successor.acquire(now)
    with pytest.raises(ConcurrencyLimited):
        second.acquire(now)
    second.release(0)
    with pytest.raises(RateLimited):
        second.acquire(now)


def test_a_request_over_the_concurrency_limit_takes_no_token() -> None:
    """A refusal for too many concurrent requests does not also cost a token."""
    limiter, now = in_one_process(requests_per_s=1, burst=2, concurrent=1), time.monotonic()
    limiter.acquire(now)
    for _ in range(5):
        with pytest.raises(ConcurrencyLimited):
            limiter.acquire(now)
    limiter.release(0)
    assert admits(limiter, now)
    assert not admits(limiter, now)


def test_retry_after_follows_the_mean_duration() -> None:
    """With four concurrent requests of eight seconds each, one should end every two seconds."""
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
    """Each key has its own bucket and count."""
    keys = [Key(name, HASH, requests_per_s=1, burst=1, concurrent=1) for name in ("one", "two", "three")]
    found = rate_limiters(keys, ProcessIndex(tmp_path / "rate_limits", 1, 2))
    now = time.monotonic()
    for limiter in found.values():
        limiter.acquire(now)
    for limiter in found.values():
        with pytest.raises(ConcurrencyLimited):
            limiter.acquire(now)
