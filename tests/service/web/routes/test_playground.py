"""The files of the playground over HTTP."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.service.support.serving import serving

pytestmark = pytest.mark.anyio

FOLDER = Path(__file__).parents[4] / "service" / "web" / "playground"
FILES = sorted(path.name for path in FOLDER.iterdir() if path.name != "index.html")


async def test_the_page_is_at_the_root() -> None:
    """GET and HEAD of / return the page, with a content policy that allows nothing inline and nothing from other origins."""
    async with serving() as service:
        page, head = await service.client.get("/"), await service.client.head("/")
    assert page.status_code == head.status_code == 200
    assert page.text == (FOLDER / "index.html").read_text(encoding="utf-8")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


@pytest.mark.parametrize("name", FILES)
async def test_a_file_is_sent_once_and_then_only_confirmed(name: str) -> None:
    """A browser keeps a file and revalidates it: the response is 304 without a body until the file changes."""
    async with serving(warm=False) as service:
        path = f"/playground/{name}"
        first = await service.client.get(path)
        tag = first.headers["etag"]
        same = await service.client.get(path, headers={"If-None-Match": f'"other", W/{tag}'})
        other = await service.client.get(path, headers={"If-None-Match": '"other"'})
    assert first.content == other.content == (FOLDER / name).read_bytes()
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert first.headers["cache-control"] == "no-cache"
    assert first.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["index.html", "other.js", "..%2fplayground.py", "%2e%2e/playground.py"])
async def test_other_names_are_not_found(name: str) -> None:
    """No file of the package outside the playground is served, and the page has one address only."""
    async with serving(warm=False) as service:
        response = await service.client.get(f"/playground/{name}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_the_files_refer_only_to_each_other() -> None:
    """Every script, style and picture that a file refers to exists, and none comes from another host."""
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    referred = set(re.findall(r'(?:src|href)="playground/([^"]+)"', page))
    for script in FOLDER.glob("*.js"):
        text = script.read_text(encoding="utf-8")
        referred |= set(re.findall(r'from "\./([^"]+)"', text))
        assert not re.findall(r'"https?://(?!www\.w3\.org/2000/svg)', text)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", text)
    assert referred == set(FILES)
    assert not re.findall(r'="(?:https?:)?//', page)
