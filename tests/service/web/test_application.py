"""The application: the route of predictions in front of all others, and the requests that it takes."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.routing import Match, Route

from polytask.service.config.settings import Settings
from polytask.service.single_process import assemble
from tests.service.support import checkpoints
from tests.service.support.doubles import real_backend
from tests.service.support.serving import serving

OTHER_METHODS = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"]


@pytest.fixture(scope="module")
def predict_route() -> Route:
    """The first route of the application."""
    _, app = assemble(checkpoints.in_memory(), Settings(), real_backend())
    route = app.router.routes[0]
    assert isinstance(route, Route)
    return route


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
def test_the_route_of_predictions_takes_no_other_requests(
    predict_route: Route, method: str, path: str, task: str | None
) -> None:
    """The route in front matches a POST to the path of predictions with one task in it, and nothing else."""
    match, scope = predict_route.matches({"type": "http", "method": method, "path": path, "headers": []})
    assert (scope["path_params"]["task"] if match is Match.FULL else None) == task


def test_the_start_of_the_application_is_no_prediction(predict_route: Route) -> None:
    """The route of predictions matches HTTP requests only, not the lifespan of the application."""
    assert predict_route.matches({"type": "lifespan"})[0] is Match.NONE


@pytest.mark.anyio
@pytest.mark.parametrize("inputs", [["cat"], [], [1]])
async def test_the_plain_route_answers_as_fastapi_s_own_does(inputs: list[Any]) -> None:
    """Status, headers and body of a prediction are those that FastAPI's route of the same path sends."""
    async with serving() as service:
        service.client.headers["X-Request-Id"] = "one"
        plain = await service.predict("mood", *inputs)
        del service.app.router.routes[0]
        fastapi = await service.predict("mood", *inputs)
    assert (plain.status_code, plain.json()) == (fastapi.status_code, fastapi.json())
    assert plain.headers.keys() == fastapi.headers.keys()


@pytest.mark.anyio
async def test_both_routes_refuse_the_same_requests() -> None:
    """Other methods, a trailing slash, an encoded slash and unknown tasks have the same answers as by FastAPI's route."""

    async def answers() -> list[tuple[int, str | None, Any]]:
        responses = [await service.client.request(method, "/v1/tasks/mood/predict") for method in OTHER_METHODS]
        for path in (
            "/v1/tasks/mood/predict/",
            "/v1/tasks/a%2Fb/predict",
            "/v1/tasks//predict",
            "/v1/tasks/m%C3%B6/predict",
        ):
            responses += [await service.client.post(path, json={"inputs": ["cat"]})]
        encoded = await service.client.post("/v1/tasks/%6D%6F%6F%64/predict", json={"inputs": ["cat"]})
        assert encoded.status_code == 200
        return [(each.status_code, each.headers.get("allow"), each.content) for each in responses]

    async with serving() as service:
        service.client.headers["X-Request-Id"] = "one"
        plain = await answers()
        del service.app.router.routes[0]
        assert plain == await answers()
    assert [status for status, *_ in plain] == [405] * 5 + [404] * 4
