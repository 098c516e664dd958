"""A path prefix: the service answers below it and without it, and its own links have it."""

from __future__ import annotations

import pytest
from starlette.routing import Route

from polytask.service.config.settings import OWN_PATHS
from tests.service.support.serving import serving
from tests.service.web.middleware.test_authentication import KEYS

pytestmark = pytest.mark.anyio

PREFIX = "/team/nlp"


@pytest.mark.parametrize("prefix", ["", PREFIX], ids=["removed by the proxy", "passed on"])
async def test_requests_are_answered_whether_a_proxy_removes_the_prefix_or_not(prefix: str) -> None:
    """Each protocol, page and probe is where it is without a prefix, and below the prefix."""
    async with serving(root_path=PREFIX) as service:
        for path in ("/", "/docs", "/openapi.json", "/playground/app.js", "/livez", "/readyz", "/metrics", "/v1/tasks"):
            assert (await service.client.get(prefix + path)).status_code == 200, path
        bodies = {
            "/v1/tasks/mood/predict": {"inputs": ["cat"]},
            "/v1/predict": {"tasks": ["mood"], "inputs": ["cat"]},
            "/v1/models/mood:predict": {"instances": ["cat"]},
            "/v2/models/mood/infer": {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["cat"]}]},
        }
        for path, body in bodies.items():
            assert (await service.client.post(prefix + path, json=body)).status_code == 200, path
        wrong = await service.client.post(f"{prefix}/v2/models/mood/infer", json={})
        assert wrong.json().keys() == {"error"}, "in the protocol's own form"


async def test_links_have_the_prefix() -> None:
    """The OpenAPI document's server, the paths of cards and the hint of a 404 are those that a client of the proxy can use."""
    async with serving(root_path=PREFIX) as service:
        document = (await service.client.get("/openapi.json")).json()
        (model,) = (await service.client.get("/v1/models")).json()["models"]
        missing = (await service.client.get(f"{PREFIX}/nothing")).json()
        assert [server["url"] for server in document["servers"]] == [PREFIX]
        assert model["card"].startswith(f"{PREFIX}/v1/models/")
        assert (await service.client.get(model["card"])).status_code == 200
        assert missing["detail"].endswith(f"; {PREFIX}/docs has all paths")
    async with serving(warm=False) as service:
        assert "servers" not in (await service.client.get("/openapi.json")).json()


async def test_the_prefix_itself_leads_to_the_page() -> None:
    """Without the slash at its end it is redirected to the slash, as the page's links are relative; a header changes nothing."""
    async with serving(root_path=PREFIX, warm=False) as service:
        response = await service.client.get(PREFIX, headers={"X-Forwarded-Prefix": "//evil.example"})
        assert (response.status_code, response.headers["location"]) == (307, f"{PREFIX}/")
        assert response.headers["x-request-id"]
        for path in (f"{PREFIX}x/docs", f"{PREFIX}{PREFIX}/docs", "/nlp/docs", f"{PREFIX}//docs"):
            assert (await service.client.get(path)).status_code == 404, path


async def test_keys_are_asked_for_below_the_prefix_too() -> None:
    """What is open without the prefix is open below it, and nothing else is; below it twice there is nothing."""
    async with serving(root_path=PREFIX, api_keys=KEYS, warm=False) as service:
        statuses = {
            path: (await service.client.get(PREFIX + path)).status_code
            for path in ("/", "/docs", "/livez", "/v1/tasks", "/admin/models", "/nothing")
        }
        assert statuses == {
            "/": 200, "/docs": 200, "/livez": 200, "/v1/tasks": 401, "/admin/models": 401, "/nothing": 401,
        }  # fmt: skip
        service.client.headers["X-API-Key"] = "secret of web"
        assert (await service.client.get(f"{PREFIX}/admin/models")).status_code == 403
        assert (await service.client.get(f"{PREFIX}{PREFIX}/admin/models")).status_code == 404


async def test_no_prefix_can_be_taken_for_a_path_of_the_service() -> None:
    """Each route begins with a name that a prefix must not begin with."""
    async with serving(api_keys=KEYS, warm=False) as service:
        document = (await service.client.get("/openapi.json")).json()
        plain = [route.path for route in service.app.router.routes if isinstance(route, Route)]
    first = {path.split("/")[1] for path in [*document["paths"], *plain]}
    assert first - {""} <= OWN_PATHS
