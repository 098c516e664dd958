"""The page "Try": input, answers and code examples."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, expect

from polytask.model.tasks import Kind
from tests.playground.support.browsing import ask, card, choose, opened
from tests.service.support.gated_service import Process
from tests.support import tiny
from tests.support.omissions import program

TASKS = {task.name: task for task in tiny.tasks()}
STAGES = ("tokenize", "queue", "forward", "postprocess")
DRAWN = {
    Kind.CLASSIFICATION: ".bars li.strong",
    Kind.MULTILABEL: ".bars .tick",
    Kind.REGRESSION: ".dial svg",
    Kind.RANKING: "ol.bars li.strong",
    Kind.MULTIPLE_CHOICE: "ol.bars li.strong",
    Kind.TAGGING: ".passage",
    Kind.SPAN: ".passage mark",
}
NASTY = """it's "the cat" \\ $HOME `ls` %s <b>\n🚂 sat"""

MARKED = """async ([text, passages]) => {
    const { marked } = await import(new URL("playground/passages.js", document.baseURI));
    const element = marked(text, passages);
    return [element.textContent, [...element.querySelectorAll("mark")].map((mark) => mark.textContent)];
}"""


def answer_of(service: Process, task: str, item: Any) -> dict[str, Any]:
    """The service's answer to one input."""
    (answer,) = service.client.post(f"/v1/tasks/{task}/predict", json={"inputs": [item]}).json()["answers"]
    assert isinstance(answer, dict)
    return answer


@pytest.mark.parametrize("name", TASKS)
def test_the_example_of_every_kind_is_answered(page: Page, name: str) -> None:
    """A selected task shows its fields with its example, and after sending its answer and the duration of each stage."""
    choose(page, name)
    ask(page)
    expect(card(page, name).locator(DRAWN[TASKS[name].kind]).first).to_be_visible()
    for stage in STAGES:
        expect(card(page, name).locator(f".timing li.{stage}")).to_contain_text(" ms")


def test_several_tasks_are_asked_at_once(page: Page) -> None:
    """Tasks with the same input fields share a form, each has an answer, and one sentence sums them up."""
    choose(page, *TASKS)
    expect(page.locator("#inputs > fieldset")).to_have_count(5)
    ask(page)
    expect(page.locator("#answers .timing")).to_have_count(len(TASKS))
    for name in TASKS:
        expect(page.locator("#announcer")).to_contain_text(f"{name}:")


def test_the_bars_are_the_scores_of_the_answer(page: Page, service: Process) -> None:
    """Every label has a bar with its percentage, most likely first, and the predicted label is marked."""
    choose(page, "mood")
    ask(page)
    text = page.locator("#text-text").input_value()
    scores = answer_of(service, "mood", text)["scores"]
    expect(card(page, "mood").locator(".bars .name")).to_contain_text(list(scores))
    shares = [f"{100 * share:.1f} %" if share >= 0.001 else "<0.1 %" for share in scores.values()]
    expect(card(page, "mood").locator(".bars .share")).to_have_text(shares)


def test_entities_after_emoji_are_marked(page: Page, service: Process) -> None:
    """Positions count code points, so the marked text is the entity's own text, whatever precedes it."""
    text = "🚂🚂 the cat 👩‍🚀 sat in Paris, a good 🐈 cat."
    choose(page, "entities")
    page.locator("#text-text").fill(text)
    ask(page)
    entities = answer_of(service, "entities", text)["entities"]
    assert entities
    expect(card(page, "entities").locator("mark")).to_have_text(
        [f"{entity['text']} {entity['label']}" for entity in entities]
    )


def test_any_passages_of_any_text_are_marked(page: Page) -> None:
    """For any text and any spans the text stays complete, and each mark holds the same characters as in Python."""

    @given(st.text(max_size=30), st.lists(st.integers(0, 30), max_size=6))
    def holds(text: str, positions: list[int]) -> None:
        ordered = sorted({min(position, len(text)) for position in positions})
        spans = list(zip(ordered[::2], ordered[1::2], strict=False))
        passages = [{"start": start, "end": end, "score": 0.5} for start, end in spans]
        assert page.evaluate(MARKED, [text, passages]) == [text, [text[start:end] for start, end in spans]]

    holds()


def test_words_are_sent_as_words(page: Page) -> None:
    """A text that is already split is sent as `tokens` to a task that accepts them, and as text to others."""
    choose(page, "mood", "entities")
    page.locator("#text-text").fill("the  cat\nsat")
    page.get_by_label("Already words").check()
    with page.expect_request("**/entities/predict") as words, page.expect_request("**/mood/predict") as text:
        ask(page)
    assert words.value.post_data_json == {"inputs": [{"tokens": ["the", "cat", "sat"]}]}
    assert text.value.post_data_json == {"inputs": ["the  cat\nsat"]}


def test_a_text_is_never_markup(page: Page) -> None:
    """Tags in a text are shown as characters."""
    text = "<img src=x onerror=alert(1)> the <b>cat</b> in paris"
    choose(page, "entities")
    page.locator("#text-text").fill(text)
    ask(page)
    assert page.locator("#answers img, #answers b").count() == 0
    plain = page.locator("#answers .passage").evaluate(
        "passage => { passage.querySelectorAll('.label').forEach(l => l.remove()); return passage.textContent; }"
    )
    assert "".join(plain.split()) == "".join(text.split())


def test_a_long_text_says_that_it_was_cut_off(page: Page) -> None:
    """The page says how much of a long text was not read, also to screen readers."""
    choose(page, "mood")
    page.locator("#text-text").fill("the cat sat. " * 40)
    ask(page)
    expect(card(page, "mood").locator(".cut")).to_contain_text("Cut off")
    expect(page.locator("#announcer")).to_contain_text("Cut off")


def test_a_wrong_field_is_named_where_it_is(page: Page) -> None:
    """The answer's card shows the problem and the field its own message; both disappear with the next answer."""
    choose(page, "closeness")
    field = page.locator("#text-text_pair-text_pair")
    field.fill("   ")
    ask(page)
    expect(card(page, "closeness").locator(".problem")).to_contain_text("inputs[0].text_pair must not be blank")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#text-text_pair-text_pair-wrong")).to_have_text("must not be blank")
    expect(page.locator("#announcer")).to_contain_text("must not be blank")
    field.fill("a cat")
    ask(page)
    expect(field).not_to_have_attribute("aria-invalid", "true")
    expect(card(page, "closeness").locator(".dial")).to_be_visible()


def test_an_unreachable_service_is_reported(page: Page) -> None:
    """Without a network connection the page shows a message."""
    choose(page, "mood")
    page.context.set_offline(True)
    ask(page)
    expect(card(page, "mood").locator(".problem")).to_contain_text("cannot be reached")


def test_sending_without_a_task_is_reported(page: Page) -> None:
    """Sending without a selected task shows a message that asks for one."""
    choose(page)
    page.get_by_role("button", name="Ask the model").click()
    expect(page.get_by_text("Choose a task first.").first).to_be_visible()


def test_waiting_can_be_cancelled(page: Page, service: Process) -> None:
    """Cancelling ends the request, and a later response changes nothing."""
    choose(page, "mood")
    service.tell("shut")
    try:
        page.get_by_role("button", name="Ask the model").click()
        page.get_by_role("button", name="Cancel").click()
        expect(card(page, "mood")).to_contain_text("Cancelled")
    finally:
        service.tell("open")
    ask(page)
    expect(card(page, "mood").locator(".bars").first).to_be_visible()


def snippet(page: Page, name: str) -> str:
    """The code example of this name under the answer of `mood`."""
    codes = card(page, "mood").locator(".codes")
    codes.evaluate("details => { details.open = true; }")
    return codes.get_by_role("group", name=name).inner_text()


def test_the_curl_line_is_the_same_call(page: Page, service: Process) -> None:
    """The curl command, run in a shell, returns the same answer, whatever the text contains."""
    program("curl")
    choose(page, "mood")
    page.locator("#text-text").fill(NASTY)
    ask(page)
    done = subprocess.run(["/bin/bash", "-c", snippet(page, "curl")], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout)["answers"] == [answer_of(service, "mood", NASTY)]
    assert json.loads(snippet(page, "Answer")) == json.loads(done.stdout)


def test_the_python_lines_are_the_same_call(page: Page, service: Process) -> None:
    """The Python code, run unchanged, prints the same answer."""
    choose(page, "mood")
    page.locator("#text-text").fill(NASTY)
    ask(page)
    done = subprocess.run([sys.executable, "-c", snippet(page, "Python")], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == repr([answer_of(service, "mood", NASTY)])


def test_code_is_copied(browser: Browser, service: Process) -> None:
    """The button copies the code to the clipboard."""
    url = str(service.client.base_url)
    with opened(browser, url, permissions=["clipboard-read", "clipboard-write"]) as page:
        choose(page, "mood")
        ask(page)
        code = snippet(page, "curl")
        card(page, "mood").get_by_role("button", name="Copy curl").click()
        expect(card(page, "mood").get_by_text("Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == code


def test_a_key_is_sent_and_not_stored(page: Page) -> None:
    """A key is sent with every call, is in no code example, and is gone after the page is closed."""
    page.get_by_text("API key", exact=True).first.click()
    page.get_by_label("API key").fill("secret-key")
    page.keyboard.press("Enter")
    choose(page, "mood")
    with page.expect_request("**/predict") as request:
        ask(page)
    assert request.value.headers["authorization"] == "Bearer secret-key"
    assert "$POLYTASK_API_KEY" in snippet(page, "curl")
    assert "secret-key" not in snippet(page, "curl") + snippet(page, "Python")
    assert (
        page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])") == '[{},{},""]'
    )
    page.reload()
    choose(page, "mood")
    with page.expect_request("**/predict") as again:
        ask(page)
    assert "authorization" not in again.value.headers
