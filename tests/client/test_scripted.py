"""The scripted server of the client's tests."""

from __future__ import annotations

import httpx
import pytest

from tests.client.support.scripted import breaks, numbers, problem, says, scripted


def test_steps_are_taken_in_order_and_the_last_for_ever() -> None:
    """Each request gets the next response of the script, the last one repeats, and requests are recorded."""
    with scripted(problem(429, retry_after_s=3), says(200, {"a": 1})) as server:
        first, *others = [httpx.post(f"{server.url}/x", json=[number]) for number in range(3)]
        assert (first.status_code, first.headers["retry-after"]) == (429, "3")
        assert [other.json() for other in others] == [{"a": 1}] * 2
        assert [(asked.path, asked.body) for asked in server.asked] == [("/x", [0]), ("/x", [1]), ("/x", [2])]


def test_a_connection_breaks() -> None:
    """A broken connection ends before the promised length."""
    with scripted(breaks) as server, pytest.raises(httpx.RemoteProtocolError):
        httpx.get(server.url)


def test_numbers_are_answered_and_others_refused() -> None:
    """Numbers are answered; the refusal of other inputs names their indices, and too many inputs are refused."""
    with scripted(numbers(limit=2)) as server:
        responses = [httpx.post(server.url, json={"inputs": inputs}) for inputs in (["1", "2"], ["1", "x"], ["1"] * 3)]
    assert [response.status_code for response in responses] == [200, 422, 413]
    assert responses[0].json()["answers"] == [{"value": 1.0}, {"value": 2.0}]
    assert responses[1].json()["errors"][0]["field"] == "inputs[1]"
