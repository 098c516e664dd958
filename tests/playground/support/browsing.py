"""A headless Chromium that opens the playground, and what a person does there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.service.support.processes import PATIENCE_S
from tests.support.omissions import program


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser. While it is open this thread has an event loop that is running: nothing else can run one."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program("chromium", "chromium-browser", "google-chrome"))
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser: Browser, url: str, path: str = "/", **options: Any) -> Iterator[Page]:
    """The playground, as soon as it shows its pages. Fails at its end where a script of it has failed.

    `options` are Playwright's: `viewport`, `color_scheme` and the like.
    """
    with browser.new_context(**options) as context:
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if "Content Security Policy" in said.text else None)
        page.goto(url + path)
        page.locator("main > section:visible").wait_for()
        yield page
        assert not errors, errors


def choose(page: Page, *tasks: str) -> None:
    """Has exactly these tasks chosen."""
    for box in page.locator("#tasks input").all():
        box.set_checked(box.get_attribute("value") in tasks)


def ask(page: Page) -> None:
    """Asks, and waits until every task has answered or refused."""
    page.get_by_role("button", name="Ask the model").click()
    settle(page)


def settle(page: Page) -> None:
    """Waits until nothing is asked for any more."""
    page.locator("#answers .answer").first.wait_for()
    expect(page.locator("#answers [aria-busy]")).to_have_count(0, timeout=1000 * PATIENCE_S)


def card(page: Page, task: str) -> Locator:
    """What a task has answered."""
    return page.locator(f"#answers [data-task='{task}']")
