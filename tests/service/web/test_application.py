"""The short way for predictions, and what does not take it."""

from __future__ import annotations

from typing import Any

import pytest

from polytask.service.web.middleware.predict_fast_path import predicted_task
from tests.service.support.serving import serving


@pytest.mark.parametrize(
    ("method", "path", "task"),
    [
        ("POST", "/v1/tasks/mood/predict", "mood"),
        ("POST", "/v1/tasks/two words/predict", "two words"),
        ("GET", "/v1/tasks/mood/predict", None),
        ("POST", "/v1/tasks//predict", None),
        ("POST", "/v1/tasks/mood/predict/", None),
        ("POST", "/v1/tasks/a/b/predict", None),
        ("POST", "/v1/tasks/mood", None),
        ("POST", "/", None),
    ],
)
def test_which_requests_take_it(method: str, path: str, task: str | None) -> None:
    """Those that the route of predictions would match, and no others."""
    assert predicted_task({"type": "http", "method": method, "path": path}) == task


def test_a_start_is_no_prediction() -> None:
    """What is not HTTP goes to FastAPI."""
    assert predicted_task({"type": "lifespan"}) is None


@pytest.mark.anyio
@pytest.mark.parametrize("inputs", [["cat"], [], [1]])
async def test_it_answers_as_the_route_does(inputs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Status, headers and body are those that FastAPI would have sent."""
    async with serving() as service:
        service.client.headers["X-Request-Id"] = "one"
        short = await service.predict("mood", *inputs)
        monkeypatch.setattr("polytask.service.web.middleware.predict_fast_path.predicted_task", lambda _: None)
        long = await service.predict("mood", *inputs)
    assert (short.status_code, short.json()) == (long.status_code, long.json())
    assert short.headers.keys() == long.headers.keys()
