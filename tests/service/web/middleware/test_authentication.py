"""Authentication over HTTP: keys, admin keys, their limits, and the metrics of refusals."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import httpx
import pytest

from polytask.service.web.middleware.authentication import request_key
from tests.service.support.doubles import GatedBackend
from tests.service.support.serving import hold, serving, until
from tests.support import tiny

pytestmark = pytest.mark.anyio

OPEN = ["/", "/docs", "/openapi.json", "/livez", "/readyz", "/metrics", "/playground/index.html"]


def line(name: str, extra: str = "") -> str:
    """The configuration line of the key `secret of NAME`."""
    return f'{name} = {{ sha256 = "{hashlib.sha256(f"secret of {name}".encode()).hexdigest()}"{extra} }}'


def bearer(name: str) -> dict[str, str]:
    """The header with this key."""
    return {"Authorization": f"Bearer secret of {name}"}


KEYS = "\n".join([line("web"), line("shop"), line("ops", ", admin = true")])


def refused(response: httpx.Response, status: int, title: str) -> dict[str, Any]:
    """The body of a problem with this title."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["title"] == title
    return problem


async def test_without_keys_the_service_is_open() -> None:
    """Requests with and without a key are answered."""
    async with serving() as service:
        assert (await service.predict("mood", "cat")).status_code == 200
        assert (await service.predict("mood", "cat", headers=bearer("web"))).status_code == 200
        assert "security" not in (await service.client.get("/openapi.json")).json()


@pytest.mark.parametrize("name", ["web", "shop", "ops"])
@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
async def test_each_key_opens_the_service(name: str, header: str) -> None:
    """Every key is accepted in both headers."""
    value = f"secret of {name}" if header == "X-API-Key" else f"bearer secret of {name}"
    async with serving(api_keys=KEYS) as service:
        assert (await service.predict("mood", "cat", headers={header: value})).status_code == 200
        assert (await service.client.get("/v1/tasks", headers={header: value})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer secret of nobody"},
        {"Authorization": "Basic secret of web"},
        {"Authorization": "Bearer"},
        {"X-API-Key": "secret of we"},
        {"X-API-Key": hashlib.sha256(b"secret of web").hexdigest()},
        {"X-API-Key": "é"},
        {"Authorization": "Bearer secret of nobody", "X-API-Key": "secret of web"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/v1/tasks", "/v1/tasks/mood/predict", "/v1", "/nothing", "/docs/", "//docs", "/admin"]
)
async def test_without_a_known_key_nothing_else_is_answered(headers: dict[str, str], path: str) -> None:
    """The response is 401 and says how to send a key, whether the path exists or not."""
    async with serving(api_keys=KEYS, warm=False) as service:
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        response = await service.client.post(f"http://test{path}", headers=encoded, content=b"{}")
    refused(response, 401, "Unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", OPEN)
async def test_pages_health_and_metrics_need_no_key(path: str) -> None:
    """Documentation, health and metrics are answered without a key; a missing playground file is 404, not 401."""
    async with serving(api_keys=KEYS) as service:
        assert (await service.client.get(path)).status_code in {200, 404}


async def test_the_body_of_a_refused_request_is_not_read() -> None:
    """A request without a key is refused before its body is received."""

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was read")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async with serving(api_keys=KEYS) as service:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/tasks/mood/predict",
            "headers": [(b"content-length", b"9")],
        }
        await service.app(scope, receive, send)
    assert sent[0]["status"] == 401


async def test_refusals_are_counted_by_reason() -> None:
    """A refusal has the task of its path as a label if the task is served, and `_unknown` otherwise."""
    async with serving(api_keys=KEYS) as service:
        await service.predict("mood", "cat")
        await service.predict("nothing", "cat")
        await service.client.get("/admin/models", headers=bearer("web"))
        assert await service.metric('polytask_rejections_total{reason="auth",task="mood"}') == 1
        assert await service.metric('polytask_rejections_total{reason="auth",task="_unknown"}') == 2
        assert await service.metric('polytask_requests_total{outcome="rejected",task="mood"}') == 1


async def test_admin_paths_need_an_admin_key() -> None:
    """Other keys get 403, and a service without keys 404; paths that only begin with the same letters are not affected."""
    for keys, headers, status in [
        ("", {}, 404),
        ("", bearer("ops"), 404),
        (KEYS, {}, 401),
        (KEYS, bearer("web"), 403),
        (KEYS, bearer("ops"), 200),
    ]:
        async with serving(api_keys=keys, warm=False) as service:
            for path in ("/admin", "/admin/models", "/administration"):
                service.app.add_api_route(path, lambda: "done")
            for path in ("/admin", "/admin/models"):
                assert (await service.client.get(path, headers=headers)).status_code == status
            expected = 200 if status in {403, 404} else status
            assert (await service.client.get("/administration", headers=headers)).status_code == expected


async def test_a_key_over_its_rate_gets_a_retry_after() -> None:
    """Each key has its own bucket, and requests to paths without a key take no token."""
    keys = "\n".join([line("web", ", requests_per_s = 0.02, burst = 2"), line("shop")])
    async with serving(api_keys=keys) as service:
        for _ in range(5):
            await service.client.get("/livez", headers=bearer("web"))
        statuses = [(await service.predict("mood", "cat", headers=bearer("web"))).status_code for _ in range(2)]
        assert statuses == [200, 200]
        response = await service.predict("mood", "cat", headers=bearer("web"))
        found = refused(response, 429, "Rate limited")
        assert found["type"] == "urn:polytask:rate-limited"
        assert int(response.headers["retry-after"]) == found["retry_after_s"] == 50
        assert (await service.predict("mood", "cat", headers=bearer("shop"))).status_code == 200
        assert await service.metric('polytask_rejections_total{reason="rate_limited",task="mood"}') == 1


async def test_a_key_over_its_concurrency_is_refused_until_a_request_ends() -> None:
    """A request in flight stops counting when it ends, whether it is answered, refused or late."""
    backend = GatedBackend()
    async with serving(backend, api_keys=line("web", ", concurrent = 2")) as service:
        service.client.headers.update(bearer("web"))
        running = await hold(service, backend)
        waiting = asyncio.create_task(service.predict("topics", "cat", headers={"Polytask-Deadline-Ms": "100"}))
        await until(lambda: service.num_waiting() == 1)
        response = await service.predict("mood", "cat")
        assert refused(response, 429, "Too many at once")["type"] == "urn:polytask:too-many-at-once"
        assert response.headers["retry-after"] == "1"
        assert (await waiting).status_code == 504
        other = asyncio.create_task(service.predict("mood", "cat"))
        await until(lambda: service.num_waiting() == 1)
        backend.open()
        assert (await running).status_code == (await other).status_code == 200
        assert (await service.predict("nothing", "cat")).status_code == 404
        assert (await service.predict("mood", "cat")).status_code == 200
        assert await service.metric('polytask_rejections_total{reason="too_many_at_once",task="mood"}') == 1


async def test_the_document_says_that_a_key_is_needed() -> None:
    """With keys the OpenAPI document has a security scheme, so that /docs asks for a key, and shows no example."""
    async with serving(api_keys=KEYS, warm=False) as service:
        document = (await service.client.get("/openapi.json")).json()
    for task in tiny.tasks():
        assert f'"{task.name}"' not in json.dumps(document["paths"]), "an example may be of somebody's data"
    assert document["security"] == [{"key": []}]
    assert document["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], b""),
        ([(b"authorization", b"Bearer  a ")], b"a"),
        ([(b"x-api-key", b"a"), (b"authorization", b"BEARER b")], b"b"),
        ([(b"authorization", b"Basic b"), (b"x-api-key", b"a")], b"a"),
    ],
)
def test_where_a_key_is_looked_for(headers: list[tuple[bytes, bytes]], key: bytes) -> None:
    """A key in Authorization is used before one in X-API-Key."""
    assert request_key(headers) == key


async def test_only_listed_origins_may_call() -> None:
    """Without origins in the settings no response has CORS headers; with them listed origins have, also for errors and preflights."""
    origin = {"Origin": "https://a.org"}
    preflight = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with serving(api_keys=KEYS, warm=False) as service:
        for response in (
            await service.client.get("/v1/tasks", headers=origin | bearer("web")),
            await service.client.options("/v1/tasks/mood/predict", headers=preflight),
        ):
            assert not [name for name in response.headers if name.startswith("access-control")]
    async with serving(api_keys=KEYS, warm=False, cors_origins="https://a.org, https://b.org") as service:
        preflight_response = await service.client.options("/v1/tasks/mood/predict", headers=preflight)
        assert preflight_response.status_code == 200
        for headers, status in ((origin, 401), (origin | bearer("web"), 200)):
            response = await service.client.get("/v1/tasks", headers=headers)
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == "https://a.org"
            assert "X-Request-Id" in response.headers["access-control-expose-headers"]
        response = await service.client.get("/v1/tasks", headers={"Origin": "https://c.org"} | bearer("web"))
        assert "access-control-allow-origin" not in response.headers
