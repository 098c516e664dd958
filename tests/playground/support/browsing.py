"""Browsing: a headless Chromium with the playground, and the actions of a user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.service.support.processes import PATIENCE_S
from tests.support.omissions import program


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser. While it is open an event loop is running in this thread, so no other can run in it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program("chromium", "chromium-browser", "google-chrome"))
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser: Browser, url: str, path: str = "/", **options: Any) -> Iterator[Page]:
    """The playground, once it shows its pages. Fails at the end if one of its scripts failed.

    `options` are Playwright's, such as `viewport` and `color_scheme`.
    """
    with browser.new_context(**options) as context:
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda message: errors.append(message.text) if "Content Security Policy" in message.text else None,
        )
        page.goto(url + path)
        page.locator("main > section:visible").wait_for()
        yield page
        assert not errors, errors


def choose(page: Page, *tasks: str) -> None:
    """Selects exactly these tasks."""
    for box in page.locator("#tasks input").all():
        box.set_checked(box.get_attribute("value") in tasks)


def ask(page: Page) -> None:
    """Sends the input and waits until every task has answered or refused."""
    page.get_by_role("button", name="Ask the model").click()
    settle(page)


def settle(page: Page) -> None:
    """Waits until no request is in flight."""
    page.locator("#answers .answer").first.wait_for()
    expect(page.locator("#answers [aria-busy]")).to_have_count(0, timeout=1000 * PATIENCE_S)


def card(page: Page, task: str) -> Locator:
    """The card with the answer of a task."""
    return page.locator(f"#answers [data-task='{task}']")
