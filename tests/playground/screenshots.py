"""Screenshots for `docs/screenshots`, of the embedded checkpoint: `python -m tests.playground.screenshots`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page

from tests.playground.support.browsing import ask, choose, chromium, opened
from tests.service.support.processes import PATIENCE_S, address, until

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "screenshots"
LAPTOP = {"width": 1280, "height": 860}
PHONE = {"width": 360, "height": 740}

TEXT = "My new card should have come to London from Berlin two weeks ago. Thank you for looking into it!"
ROWS = (
    "How do I change my PIN?",
    "I was charged twice for the same coffee.",
    "Which currencies can I hold?",
    "The machine has kept my card.",
    "Can my daughter have an account?",
    "My transfer has not arrived yet.",
    "I think somebody else is using my card.",
    "Where can I see the exchange rate?",
)


def main() -> None:
    """Takes all screenshots."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with demo() as url, chromium() as browser:
        _try(browser, url)
        _dark(browser, url)
        _batch(browser, url)
        _phone(browser, url)


@contextlib.contextmanager
def demo() -> Iterator[str]:
    """Serves the embedded checkpoint. Yields its address."""
    command = [sys.executable, "-c", "from polytask.cli import main; main()", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ, stderr=subprocess.PIPE, text=True) as popen:
        try:
            url = address(popen)
            until(lambda: httpx.get(f"{url}/readyz", timeout=PATIENCE_S).status_code == 200)
            yield url
        finally:
            popen.kill()


def _try(browser: Browser, url: str) -> None:
    with opened(browser, url, viewport=LAPTOP, reduced_motion="reduce") as page:
        choose(page, "intent", "emotions", "entities")
        page.locator("#text-text").fill(TEXT)
        ask(page)
        _take(page, "try")


def _dark(browser: Browser, url: str) -> None:
    with opened(browser, url, viewport=LAPTOP, reduced_motion="reduce", color_scheme="dark") as page:
        choose(page, "answer", "relevance", "similarity", "science")
        ask(page)
        _take(page, "dark")


def _batch(browser: Browser, url: str) -> None:
    with opened(browser, url, "/#batch", viewport=LAPTOP, reduced_motion="reduce") as page:
        page.locator("#batch-text").fill("\n".join(ROWS))
        page.get_by_role("button", name="Answer all rows").click()
        page.locator("#batch-state", has_text="done").wait_for()
        _take(page, "batch")


def _phone(browser: Browser, url: str) -> None:
    with opened(browser, url, viewport=PHONE, device_scale_factor=2, reduced_motion="reduce") as page:
        choose(page, "entities", "similarity")
        page.locator("#text-text").fill(TEXT)
        ask(page)
        page.locator("#answers").scroll_into_view_if_needed()
        _take(page, "phone")


def _take(page: Page, name: str) -> None:
    page.locator("#state.ready").wait_for()
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path)
    # A page has few colours, and a repository keeps every version of a picture.
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
