"""Waits between tries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask_client import BadResponse, OutOfTime, Problem, Retries, Unreachable
from polytask_client.call_protocol import Send, Wait, exchange
from polytask_client.errors import service_error
from polytask_client.messages import Reply, Request, refusal

jitters = st.floats(0, 1)


@given(st.integers(1, 10_000), jitters)
def test_waits_grow_up_to_the_longest(tries: int, jitter: float) -> None:
    """A wait lies between half of its bound and its bound, which doubles with each try up to the longest."""
    retries = Retries(max_tries=None, first_s=0.1, longest_s=3.0)
    bound = min(3.0, 0.1 * 2.0 ** min(tries - 1, 100))
    wait_s = retries.wait_s(tries, Unreachable(), jitter)
    assert wait_s is not None
    assert bound / 2 <= wait_s <= bound


@given(st.integers(1, 100), st.floats(0, 1e6), jitters)
def test_no_wait_is_shorter_than_what_the_service_says(tries: int, after_s: float, jitter: float) -> None:
    """A wait is at least Retry-After and at most ten seconds longer."""
    error = service_error(Problem("urn:polytask:busy", "Busy", 429, "", retry_after_s=after_s))
    wait_s = Retries(max_tries=None).wait_s(tries, error, jitter)
    assert wait_s is not None
    assert after_s <= wait_s <= after_s + 10


@pytest.mark.parametrize("error", [OutOfTime(), BadResponse()])
def test_some_errors_are_final(error: OutOfTime | BadResponse) -> None:
    """A passed deadline and a response that does not follow the API are not tried again."""
    assert Retries(max_tries=None).wait_s(1, error, 0) is None


@given(st.floats(0.01, 100), st.lists(st.tuples(st.floats(0, 5), st.floats(0, 20)), max_size=20))
def test_a_call_never_goes_past_its_deadline(deadline_s: float, replies: list[tuple[float, float]]) -> None:
    """For any duration of tries and any Retry-After, no try begins after the deadline or may end after it."""
    now = 0.0
    steps = exchange(Request("/", b"{}"), Retries(max_tries=None), deadline_s, clock=lambda: now)
    step = next(steps)
    for took_s, retry_after_s in replies:
        assert isinstance(step, Send)
        assert now < deadline_s
        assert now + step.timeout_s <= deadline_s + 0.001 + 1e-6
        assert 1 <= int(step.headers["Polytask-Deadline-Ms"]) <= max(1, step.timeout_s * 1000)
        now += min(took_s, step.timeout_s)
        error = service_error(Problem("urn:polytask:busy", "Busy", 503, "", retry_after_s=retry_after_s))
        try:
            step = steps.send(error)
        except type(error):
            return
        assert isinstance(step, Wait)
        assert step.seconds >= retry_after_s
        now += step.seconds
        step = steps.send(None)
    steps.close()


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("3", 3, 3),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 1, 3e9),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0, 0),
    ],
)
def test_retry_after_may_be_a_date(header: str, least: float, most: float) -> None:
    """Retry-After may be a date, as proxies write it; a date in the past means now."""
    found = refusal(Reply(503, {"retry-after": header}, b"")).problem.retry_after_s
    assert found is not None
    assert least <= found <= most


def test_retry_after_may_be_nonsense() -> None:
    """An invalid Retry-After is ignored, and the body's `retry_after_s` counts if there is one."""
    assert refusal(Reply(503, {"retry-after": "soon"}, b"")).problem.retry_after_s is None
    assert refusal(Reply(503, {"retry-after": "soon"}, b'{"retry_after_s": 4}')).problem.retry_after_s == 4
