"""The page at `/docs`: its links, and what its headers allow."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from tests.service.support.serving import serving

pytestmark = pytest.mark.anyio


async def test_the_page_runs_swagger_ui_and_nothing_else() -> None:
    """Its policy allows the scripts that are in it, by address or by hash, no other origin, and no frame around it."""
    async with serving(warm=False) as service:
        page, head = await service.client.get("/docs"), await service.client.head("/docs")
    assert page.status_code == head.status_code == 200
    policy = dict(directive.strip().split(" ", 1) for directive in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'"
    (inline,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    (host,) = {source for source in policy["script-src"].split() if source.startswith("https:")}
    assert policy["script-src"] == f"{host} 'sha256-{digest}'"
    foreign = re.findall(r'<(?:script|link)[^>]* (?:src|href)="(https:[^"]+)"([^>]*)>', page.text)
    assert len(foreign) == 2
    for address, attributes in foreign:
        assert address.startswith(host)
        assert re.search(r' integrity="sha384-[\w+/]{64}"', attributes), "nothing but the version that was looked at"
    assert page.headers["x-content-type-options"] == "nosniff"


async def test_its_links_are_relative() -> None:
    """What the page has from the service is found below any prefix."""
    async with serving(warm=False) as service:
        page = (await service.client.get("/docs")).text
        links = re.findall(r"(?:href|src|url)[=:] ?[\"']([^\"']+)", page)
        own = [link for link in links if not link.startswith("https://cdn.jsdelivr.net/")]
        assert own == ["playground/icon.svg", "openapi.json"]
        for link in own:
            assert (await service.client.get(f"/{link}")).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/v1/tasks", "/metrics", "/nothing", "/v1/tasks/mood/predict"]
)
async def test_no_response_is_taken_for_another_type(path: str) -> None:
    """Pages, JSON, problems and metrics say once that browsers are to believe their media type."""
    async with serving(warm=False) as service:
        response = await service.client.get(path)
    assert response.headers.get_list("x-content-type-options") == ["nosniff"]
