"""The page "Batch": a table in, answers out."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Page, Route, expect

from tests.service.support.gated_service import Process
from tests.service.support.processes import PATIENCE_S, until
from tests.support import tiny

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"), max_size=8)
QUOTES = st.text('a",;\n\r\t ', max_size=6)
RECORDS = st.lists(st.lists(CELLS | QUOTES, min_size=1, max_size=4), min_size=1, max_size=4)

PARSED = "async ([text, delimiter]) => (await import('/playground/csv.js')).parse(text, delimiter ?? undefined)"
WRITTEN = "async (records) => (await import('/playground/csv.js')).write(records)"


@pytest.fixture
def batch(page: Page) -> Page:
    """The page "Batch"."""
    page.get_by_role("link", name="Batch").click()
    return page


def to_csv(records: list[list[str]], **options: Any) -> str:
    """The records in the CSV format of Python's writer."""
    text = io.StringIO(newline="")
    csv.writer(text, **options).writerows(records)
    return text.getvalue()


def bring(page: Page, task: str, text: str | bytes, name: str = "rows.csv") -> None:
    """Selects a task and a file with this content."""
    page.get_by_label("Task").select_option(task)
    content = text if isinstance(text, bytes) else text.encode()
    page.locator("#batch-file").set_input_files({"name": name, "mimeType": "text/csv", "buffer": content})


def answer(page: Page) -> None:
    """Runs the batch to its end."""
    page.get_by_role("button", name="Answer all rows").click()
    page.locator("#batch-state", has_text="done").wait_for(timeout=1000 * PATIENCE_S)


def downloaded(page: Page, button: str = "Download CSV") -> list[dict[str, str]]:
    """The rows of the downloaded result."""
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    with Path(download.value.path()).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def answers_of(service: Process, task: str, *inputs: Any) -> list[Any]:
    """The answers of the service."""
    answers: list[Any] = service.client.post(f"/v1/tasks/{task}/predict", json={"inputs": inputs}).json()["answers"]
    return answers


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_is_read_as_python_writes_it(page: Page, delimiter: str) -> None:
    """Any table with quotes, quoted line breaks and empty cells is read as Python wrote it."""

    # With ends of "\n" Python leaves a lone "\r" without quotes, and cannot read that itself.
    @given(RECORDS, st.sampled_from([("\r\n", csv.QUOTE_MINIMAL), ("\n", csv.QUOTE_ALL)]))
    def holds(records: list[list[str]], style: tuple[str, Any]) -> None:
        end, quoting = style
        text = to_csv(records, delimiter=delimiter, lineterminator=end, quoting=quoting)
        assert page.evaluate(PARSED, [text, delimiter]) == records

    holds()


def test_csv_is_written_as_python_reads_it(page: Page) -> None:
    """Python reads any downloaded table as it was."""

    @given(RECORDS)
    def holds(records: list[list[str]]) -> None:
        assert list(csv.reader(io.StringIO(page.evaluate(WRITTEN, records), newline=""))) == records

    holds()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_found(page: Page, delimiter: str) -> None:
    """The delimiter is the one between the cells of the first line, outside quotes; a byte order mark is skipped."""
    records = [["a,;b", "x,y,z", "c"], ["1", "2", "3;4"]]
    text = "\ufeff" + to_csv(records, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    assert page.evaluate(PARSED, [text, None]) == records


def test_pasted_lines_are_inputs(batch: Page, service: Process) -> None:
    """Each pasted line is a text, blank lines are skipped, and the CSV has the answers beside the texts, in order."""
    texts = [f"the cat sat {number}" for number in range(70)]
    batch.locator("#batch-text").fill("\n\n".join(texts))
    answer(batch)
    rows = downloaded(batch)
    expected = answers_of(service, "mood", *texts)
    assert [row["text"] for row in rows] == texts
    assert [row["mood"] for row in rows] == [answer["label"] for answer in expected]
    assert [float(row["mood_score"]) for row in rows] == [answer["score"] for answer in expected]
    assert [json.loads(row["mood_json"]) for row in rows] == expected
    expect(batch.locator("#batch-page tbody tr")).to_have_count(50)
    expect(batch.locator("#announcer")).to_have_text("70 rows done.")


def test_no_spreadsheet_runs_what_is_downloaded(batch: Page) -> None:
    """A ' is in front of cells that begin as formulas do, answers too; the page says so, and has the file without it as well."""
    texts = ['=HYPERLINK("http://evil.example","cat")', "@cat sat", "+cat", "-the cat", "-0.5", "+1e3", "the = cat"]
    plain = {"-0.5", "+1e3", "the = cat"}
    bring(batch, "entities", to_csv([["text", "=1+1"], *([text, "\tcat"] for text in texts)]))
    answer(batch)
    expect(batch.locator("#batch-formulas")).to_contain_text("' in front")
    rows, as_it_is = downloaded(batch), downloaded(batch, "Download as it is")
    assert [row["text"] for row in as_it_is] == texts
    assert [row["text"] for row in rows] == [text if text in plain else f"'{text}" for text in texts]
    assert {row["'=1+1"] for row in rows} == {"'\tcat"}
    assert [row["entities_json"] for row in rows] == [row["entities_json"] for row in as_it_is]
    for row, other in zip(rows, as_it_is, strict=True):
        assert row["entities"].removeprefix("'") == other["entities"]
        assert row["entities"][:1] not in {"=", "+", "-", "@", "\t", "\r"} or not row["entities"]
    batch.locator("#batch-file").set_input_files([])
    bring(batch, "mood", to_csv([["text"], ["the cat"]]))
    answer(batch)
    expect(batch.get_by_role("button", name="Download as it is")).to_be_hidden()


@pytest.mark.parametrize("task", [task.name for task in tiny.tasks()])
def test_a_file_may_hold_any_kind_of_input(batch: Page, service: Process, task: str) -> None:
    """Columns are input fields by name, lists are JSON, and line breaks and quotes in cells are part of the text."""
    inputs: dict[str, dict[str, Any]] = {
        "relevance": {"query": 'which "cat",\nhere?', "candidates": ["a | b", "paris"]},
        "choice": {"text": "the cat", "question": "where?", "choices": ["sat", "in, paris"]},
        "answer": {"question": "who?", "context": "In Paris,\nthe 🐈 sat."},
        "closeness": {"text": "a\nb", "text_pair": '"c"'},
    }
    item = inputs.get(task, {"text": 'the "cat",\nsat'})
    cells = [value if isinstance(value, str) else json.dumps(value) for value in item.values()]
    bring(batch, task, to_csv([["id", *item], ["7", *cells], ["8", *cells]]))
    answer(batch)
    rows = downloaded(batch)
    assert [row["id"] for row in rows] == ["7", "8"]
    given_as = item["text"] if list(item) == ["text"] else item
    assert [json.loads(row[f"{task}_json"]) for row in rows] == answers_of(service, task, given_as, given_as)


def test_a_column_can_be_chosen(batch: Page, service: Process) -> None:
    """Without a column named like the field the one with the longest texts is used, until the user selects another."""
    bring(batch, "mood", "title,message\ncat,the cat sat in paris\n")
    expect(batch.get_by_label("text is in")).to_have_value("1")
    answer(batch)
    assert downloaded(batch)[0]["mood_score"] == str(answers_of(service, "mood", "the cat sat in paris")[0]["score"])
    batch.get_by_label("text is in").select_option("title")
    answer(batch)
    assert downloaded(batch)[0]["mood_score"] == str(answers_of(service, "mood", "cat")[0]["score"])


def test_old_spreadsheets_are_read(batch: Page) -> None:
    """Files in the Windows encoding and with semicolons between cells are read correctly."""
    bring(batch, "mood", "nr;text\n1;für die Katze\n".encode("windows-1252"))
    answer(batch)
    assert downloaded(batch)[0]["text"] == "für die Katze"


def test_a_dropped_file_is_read(batch: Page) -> None:
    """A file that is dragged onto the card is read like a selected one."""
    batch.evaluate("""() => {
        const held = new DataTransfer();
        held.items.add(new File(["text\\nthe cat\\n"], "rows.csv"));
        document.querySelector("#batch-page .card").dispatchEvent(new DragEvent("drop", { dataTransfer: held }));
    }""")
    expect(batch.get_by_text("1 row, 1 column")).to_be_visible()


@pytest.mark.parametrize(
    ("text", "message"),
    [("text,other\n", "no rows below the first line"), ('text\n"the cat\n', "A quote is opened in record 2")],
)
def test_a_file_that_is_no_table_is_refused_in_words(batch: Page, text: str, message: str) -> None:
    """An unreadable file shows the reason in place of the rows, and nothing is sent."""
    bring(batch, "mood", text)
    expect(batch.get_by_role("alert").filter(has_text=message)).to_be_visible()


def test_a_row_that_is_refused_does_not_stop_the_others(batch: Page, service: Process) -> None:
    """A refused row shows its reason, and every other row its answer."""
    records = [
        ["text", "text_pair"],
        *([f"cat {number}", " " if number in {3, 40} else "a cat"] for number in range(50)),
    ]
    bring(batch, "closeness", to_csv(records))
    answer(batch)
    rows = downloaded(batch)
    assert {number for number, row in enumerate(rows) if row["closeness_error"]} == {3, 40}
    assert rows[3]["closeness_error"] == "must not be blank"
    assert all(bool(row["closeness"]) != bool(row["closeness_error"]) for row in rows)
    expect(batch.locator("#batch-state")).to_have_text("50 rows done, 2 of them refused.")
    assert service.client.get("/readyz").status_code == 200


def test_a_batch_can_be_cancelled(batch: Page, service: Process) -> None:
    """Cancelling ends the requests in flight, and the batch can be started again."""
    texts = [f"the cat sat {number}" for number in range(200)]
    batch.locator("#batch-text").fill("\n".join(texts))
    before = service.sample("polytask_inputs_total")
    service.tell("shut")
    try:
        batch.get_by_role("button", name="Answer all rows").click()
        until(lambda: service.sample("polytask_inputs_total") > before)
        batch.get_by_role("button", name="Cancel").click()
        expect(batch.locator("#batch-state")).to_have_text("Stopped after 0 of 200 rows.")
    finally:
        service.tell("open")
    answer(batch)
    assert [row["text"] for row in downloaded(batch)] == texts


def test_an_interrupted_batch_resumes(batch: Page) -> None:
    """Answers before the interruption are kept and can be downloaded, and resuming sends only the other rows."""
    batch_sizes: list[int] = []

    def fourth_fails(route: Route) -> None:
        batch_sizes.append(len(json.loads(route.request.post_data or "")["inputs"]))
        if len(batch_sizes) == 4:
            route.abort()
        else:
            route.continue_()

    batch.route("**/predict", fourth_fails)
    texts = [f"the cat sat {number}" for number in range(200)]
    batch.locator("#batch-text").fill("\n".join(texts))
    batch.get_by_role("button", name="Answer all rows").click()
    expect(batch.locator("#batch-page .problem")).to_contain_text("cannot be reached")
    answered = sum(bool(row["mood"]) for row in downloaded(batch))
    assert 64 <= answered < 200
    batch_sizes[:] = [0] * 4
    batch.get_by_role("button", name="Go on").click()
    expect(batch.locator("#batch-state")).to_have_text("200 rows done.", timeout=1000 * PATIENCE_S)
    assert sum(batch_sizes) == 200 - answered
    assert all(row["mood"] for row in downloaded(batch))
