"""The page as a whole: accessibility, small screens, colours, keyboard, and states of the service."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.playground.support.browsing import ask, card, choose, opened, settle
from tests.service.support.gated_service import Process, process
from tests.service.support.processes import PATIENCE_S, until
from tests.service.support.serving import body
from tests.support import tiny

TASKS = [task.name for task in tiny.tasks()]
PAGES = ("try", "batch", "model")
PHONE = {"width": 360, "height": 740}
ROWS = "the cat sat\n" + "word" * 60

FOCUS = """() => {
    const at = document.activeElement;
    if (at === document.body) return [null, false];
    const shown = at.matches(".chip input") ? at.nextElementSibling : at;
    return [at.id || at.value || at.textContent, getComputedStyle(shown).outlineStyle !== "none"];
}"""


def fill_every_page(page: Page) -> None:
    """Fills every page: answers, a problem, a batch, and opened details."""
    choose(page, *TASKS)
    page.locator("#text-text_pair-text").fill(" ")
    ask(page)
    page.goto(page.url.split("#")[0] + "#batch")
    page.locator("#batch-text").fill(ROWS)
    page.get_by_role("button", name="Answer all rows").click()
    page.get_by_text("2 rows done").first.wait_for()
    page.evaluate("document.querySelectorAll('main details').forEach((details) => { details.open = true; })")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, service: Process, scheme: Any) -> None:
    """Axe finds no violation of names, contrast, order or roles on any page, in both colour schemes."""
    # Axe itself is injected, which the page's policy would not have.
    options: dict[str, Any] = {"color_scheme": scheme, "bypass_csp": True, "reduced_motion": "reduce"}
    with opened(browser, str(service.client.base_url), **options) as page:
        fill_every_page(page)
        for name in PAGES:
            page.goto(page.url.split("#")[0] + f"#{name}")
            found = Axe().run(page).response["violations"]
            assert [
                (violation["id"], violation["impact"], [node["target"] for node in violation["nodes"]])
                for violation in found
            ] == []


def test_a_phone_never_scrolls_sideways(browser: Browser, service: Process) -> None:
    """At 360 pixels every filled page is as wide as the screen."""
    with opened(browser, str(service.client.base_url), viewport=PHONE) as page:
        fill_every_page(page)
        for name in PAGES:
            page.goto(page.url.split("#")[0] + f"#{name}")
            assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], name


def test_the_switch_of_colours_is_remembered(browser: Browser, service: Process) -> None:
    """The page follows the system until the switch is used, and keeps the choice after a reload."""
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    with opened(browser, str(service.client.base_url), color_scheme="dark") as page:
        dark = page.evaluate(ground)
        page.get_by_role("button", name="Switch to the light colours").click()
        light = page.evaluate(ground)
        assert light != dark
        page.reload()
        assert page.evaluate(ground) == light
        page.get_by_role("button", name="Switch to the dark colours").click()
        assert page.evaluate(ground) == dark
    with opened(browser, str(service.client.base_url), color_scheme="light") as page:
        assert page.evaluate(ground) == light


def test_everything_works_with_the_keyboard(page: Page) -> None:
    """Tab reaches every visible control, focus is always visible, Space selects, and Ctrl+Enter sends."""
    in_sight = page.locator("a, button, summary, input, textarea, select").filter(visible=True).count()
    reached = 0
    while True:
        page.keyboard.press("Tab")
        name, seen = page.evaluate(FOCUS)
        if name is None:
            break
        assert seen, name
        reached += 1
    assert reached == in_sight
    choose(page)
    page.locator("#tasks input[value='closeness']").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Control+Enter")
    settle(page)
    expect(card(page, "closeness").locator(".dial")).to_be_visible()
    page.locator("header nav a", has_text="Model").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="The model")).to_be_visible()


def test_the_model_stands_beside_the_trivial_baseline(page: Page) -> None:
    """The page shows the metrics of each task of the checkpoint beside those of its trivial baseline."""
    page.get_by_role("link", name="Model").click()
    for name in TASKS:
        shown = page.locator(f"#model-page [data-task='{name}'] .share")
        expect(shown).to_have_text(["0.750", "0.250"])
    expect(page.locator("#state")).to_have_text("tiny/1")


def test_a_service_with_keys_asks_for_one(browser: Browser, store: Path) -> None:
    """The page opens without a key, reports a wrong one, and works completely with a valid one."""
    line = f'web = {{ sha256 = "{hashlib.sha256(b"right").hexdigest()}" }}'
    with process(store, POLYTASK_API_KEYS=line) as service, browser.new_page() as page:
        page.goto(str(service.client.base_url))
        for secret in ("wrong", "right"):
            expect(page.locator("#notice")).to_contain_text("Enter your API key")
            expect(page.get_by_label("API key")).to_be_focused()
            page.get_by_label("API key").fill(secret)
            page.keyboard.press("Enter")
        ask(page)
        expect(page.locator("#answers .timing").first).to_be_visible()


def test_a_service_that_warms_up_is_waited_for(browser: Browser, store: Path) -> None:
    """During warm-up the page opens at once, says what it waits for, and sends the input when the service is ready."""
    with process(store, shut=True) as service, opened(browser, str(service.client.base_url)) as page:
        expect(page.locator("#state")).to_have_text("warming up")
        choose(page, "mood")
        page.get_by_role("button", name="Ask the model").click()
        expect(page.locator("#waiting")).to_contain_text("warming up")
        expect(page.locator("#waiting")).to_contain_text("Trying again in 1 second.")
        service.tell("open")
        expect(card(page, "mood").locator(".bars").first).to_be_visible(timeout=1000 * PATIENCE_S)
        expect(page.locator("#state")).to_have_text("tiny/1")


def test_a_full_queue_is_waited_for(browser: Browser, store: Path) -> None:
    """After a 429 the page says why and how long it waits, and then retries."""
    with (
        process(store, POLYTASK_MAX_WAITING_TOKENS="32", POLYTASK_DEADLINE_S="60") as service,
        ThreadPoolExecutor() as pool,
        opened(browser, str(service.client.base_url)) as page,
    ):
        url = f"{service.client.base_url}/v1/tasks/mood/predict"
        service.tell("shut")
        # One is on the device, and one with as many tokens as may wait is queued.
        calls = [pool.submit(httpx.post, url, content=body("cat " * 30), timeout=PATIENCE_S)]
        until(
            lambda: service.sample("polytask_input_tokens_total") == 32 and not service.sample("polytask_queue_inputs")
        )
        calls.append(pool.submit(httpx.post, url, content=body("cat " * 30), timeout=PATIENCE_S))
        until(lambda: service.sample("polytask_queue_inputs") == 1)
        choose(page, "mood")
        page.get_by_role("button", name="Ask the model").click()
        expect(page.locator("#waiting")).to_contain_text("Trying again in")
        service.tell("open")
        expect(card(page, "mood").locator(".bars").first).to_be_visible(timeout=1000 * PATIENCE_S)
        assert [call.result().status_code for call in calls] == [200] * 2
