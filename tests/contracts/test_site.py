"""The documentation site: it builds without a warning, its links lead somewhere, and it needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.playground.support.browsing import chromium

ROOT = Path(__file__).parents[2]
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
"""What a browser fetches by itself, and the attribute that says from where."""


class Page(HTMLParser):
    """What a page of the site links to, what it loads, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes what the tag refers to."""
        values = {name: value for name, value in attrs if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        if tag in LOADED and LOADED[tag] in values:
            self.loaded.add(values[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it: a warning, such as a link that leads nowhere, fails."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c", "docs", ".", str(folder)]
    finished = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    """Each page in `docs/` is a page of the site."""
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages == {path.stem for path in (site / "docs").glob("*.html")}


def test_no_link_is_broken(site: Path) -> None:
    """Each link within the site leads to a file of it and, with an anchor, to a place on that page."""
    page_at = cache(Page)
    paths = sorted(site.rglob("*.html"))
    assert len(paths) > 20
    for path in paths:
        for link in page_at(path).links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            assert target.is_file(), f"{path.relative_to(site)}: {link}"
            if url.fragment and target.suffix == ".html":
                assert unquote(url.fragment) in page_at(target).anchors | {""}, f"{path.relative_to(site)}: {link}"


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """No script, style, font or picture comes from a network."""
    for path in site.rglob("*.html"):
        assert not [url for url in Page(path).loaded if re.match(r"(https?:)?//", url)], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    ("query", "pages"),
    [("POLYTASK_SWAP_TOLERANCE", {"Configuration", "Upgrading"}), ("429", {"Architecture", "HTTP API"})],
)
def test_the_search_works_without_a_server(site: Path, query: str, pages: set[str]) -> None:
    """Opened as a file, the search finds the pages of a word or a number."""
    with chromium() as browser, browser.new_context(offline=True) as context:
        page = context.new_page()
        page.goto(f"{(site / 'search.html').as_uri()}?q={query}")
        page.get_by_text("Search finished").wait_for()
        assert pages <= set(page.locator("#search-results li a").all_inner_texts())
