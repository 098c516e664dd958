"""Report: numbers, charts and texts of the page, for runs in every state."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from polytask import cli
from polytask.model.tasks import Kind, Task
from polytask.training.report.tables import (
    number,
    task_scores,
    use_table,
)
from polytask.training.report.write_report import write_report
from polytask.training.runs.run_reader import read_run
from tests.training.support.guesses import task_of, write_run

TASKS = [task_of(kind, f"{kind}-task".replace("_", "-")) for kind in Kind] + [task_of(Kind.CLASSIFICATION, "many", 23)]
HOSTILE = '<script>alert("1")</script> | [x](http://evil) `y` $z$ & \n# w'
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """The tables, ids and tags of a page. Its elements must be closed in the order in which they were opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in {"href", "src", "xlink:href"}]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of all kinds, with its report."""
    path = tmp_path_factory.mktemp("run")
    write_run(path, TASKS)
    write_report(path)
    return path


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    """The parsed report of that run."""
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_numbers_are_those_of_the_files(folder: Path, page: Page) -> None:
    """Each metric of each task stands in a row with its baseline and references, rounded to four decimals."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for task, scores in results["scores"].items():
        for metric, value in scores.items():
            others = [results["baselines"], *(own for own in results["references"].values() if task in own)]
            assert [metric, f"{value:.4f}", *(f"{own[task][metric]:.4f}" for own in others)] in page.rows
        main, value = next(iter(scores.items()))
        head = [task, main, f"{value:.4f}", f"{results['baselines'][task][main]:.4f}"]
        (own,) = [row for row in page.rows if row[:4] == head]
        rivals = [results["references"][name].get(task, {}).get(main) for name in ("TF-IDF", "frozen")]
        assert own[4:6] == [number(rival) for rival in rivals]
        assert float(own[6]) == pytest.approx(value - results["baselines"][task][main], abs=1e-4)
        assert float(own[7]) == pytest.approx(value - max(r for r in rivals if r is not None), abs=1e-4)


def test_the_examples_of_each_task_are_those_of_the_history(folder: Path, page: Page) -> None:
    """The examples drawn of each task are summed over all progress events, beside its first and last loss."""
    run = read_run(folder)
    for task in run.kinds:
        own = [event["tasks"][task] for event in run.progress]
        row = [task, f"{sum(one['examples'] for one in own):,}"]
        (found,) = [cells for cells in page.rows if cells[:2] == row]
        assert found[3:] == [f"{own[0]['loss']:.4f}", f"{own[-1]['loss']:.4f}"]
    assert sum(float(row[2].rstrip("%")) for row in use_table(run).rows) == pytest.approx(100, abs=1)


def test_the_diagnoses_are_shown(folder: Path, page: Page) -> None:
    """Confusion counts, calibration bins, labels, deciles and mistakes of the results are in the page."""
    diagnostics = json.loads((folder / "results.json").read_text(encoding="utf-8"))["diagnostics"]
    for task, own in diagnostics.items():
        for label, counts in zip(*own.get("confusion", {"labels": [], "counts": []}).values(), strict=True):
            assert [label, *map(str, counts)] in page.rows
        if "calibration" in own:
            assert f"Expected calibration error {own['calibration']['ece']:.4f}" in page.text
            for one in own["calibration"]["bins"]:
                means = [number(one["confidence"]), number(one["accuracy"]), str(one["count"])]
                assert [f"{one['low']:.1f} to {one['high']:.1f}", *means] in page.rows
        for one in own.get("per_label", []):
            assert any(row[:2] == [one["label"], f"{one['precision']:.4f}"] for row in page.rows)
        for one in own["mistakes"]:
            assert ["".join(one["input"]), one["right"], one["given"], f"{one['score']:.4f}"] in page.rows
        assert f"task-{task}" in page.ids
    assert diagnostics["many"]["confused"]
    for one in diagnostics["many"]["confused"]:
        assert [one["right"], one["given"], str(one["count"]), f"{one['share']:.1%}"] in page.rows


def test_the_page_needs_nothing_from_elsewhere(page: Page) -> None:
    """No script, style sheet, picture or font comes from elsewhere: all addresses are within the page."""
    assert not {"script", "link", "img", "iframe", "image"} & set(page.tags)
    assert all(address.startswith("#") and address[1:] in page.ids for address in page.addresses)
    assert len(page.ids) == len(set(page.ids))


def test_charts_can_be_read_aloud(folder: Path) -> None:
    """Every SVG is an image with its own title and description."""
    html = (folder / "report.html").read_text(encoding="utf-8")
    charts = re.findall(r"<svg .*?</svg>", html, re.DOTALL)
    assert len(charts) > 2 * len(TASKS)
    names = set()
    for chart in charts:
        root = ET.fromstring(chart)  # noqa: S314 - our own file
        title, description = root[0], root[1]
        assert root.get("role") == "img"
        assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
        assert title.text
        assert description.text
        names.add(title.get("id"))
    assert len(names) == len(charts)


def test_the_same_files_give_the_same_report(folder: Path) -> None:
    """A report that is written again is the same to the byte."""
    before = {path: path.read_bytes() for path in folder.rglob("report*") if path.is_file()}
    write_report(folder)
    assert before == {path: path.read_bytes() for path in before}


def test_an_unfinished_run_shows_what_there_is(tmp_path: Path) -> None:
    """The report of an unfinished run has curves, shares and the last evaluation, and says that it is unfinished."""
    write_run(tmp_path, TASKS, finished=False)
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "unfinished" in page.text
    for score in task_scores(read_run(tmp_path)):
        assert [score.task, score.metric, number(score.value), "-", "-"] in page.rows
    assert "Calibration" not in page.text


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_a_run_that_has_hardly_begun_has_a_report(tmp_path: Path, lines: int) -> None:
    """A run without events, with only its start, or with one progress event has a report."""
    write_run(tmp_path, TASKS[:1], finished=False)
    history = (tmp_path / "history.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "history.jsonl").write_text("".join(history[:lines]), encoding="utf-8")
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert ("Nothing has been recorded yet" in page.text) == (lines == 0)
    assert ("No update has been made yet" in page.text) == (lines < 2)
    assert (TASKS[0].name in page.text) == (lines > 0)


def test_one_task_and_many_tasks_have_sections(tmp_path: Path) -> None:
    """In a run of one task or of many, each has a section and its name in the charts."""
    for count in (1, 14):
        tasks = [task_of(Kind.REGRESSION, f"task-{index}") for index in range(count)]
        write_run(tmp_path / str(count), tasks, intervals=4, finished=False)
        html = write_report(tmp_path / str(count)).read_text(encoding="utf-8")
        assert {f"task-{task.name}" for task in tasks} <= set(Page(html).ids)
        assert all(f">{task.name}</text>" in html for task in tasks)
        assert len(html) < 2_000_000


def test_texts_of_the_data_are_text(tmp_path: Path) -> None:
    """Markup in inputs, labels and names of references is shown as text, in HTML and SVG."""
    task = Task("mood", Kind.CLASSIFICATION, 32, labels=(HOSTILE, "plain"))
    results = write_run(tmp_path, [task])
    results["references"] = {HOSTILE: {"mood": {"accuracy": 0.5}}}
    results["warnings"] = {"mood": HOSTILE}
    results["diagnostics"]["mood"]["mistakes"] = [
        {"input": [HOSTILE], "right": HOSTILE, "given": HOSTILE, "score": 1.0}
    ]
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    html = write_report(tmp_path).read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.tags
    assert [HOSTILE, HOSTILE, HOSTILE, "1.0000"] in page.rows
    assert any(HOSTILE in row for row in page.rows if "metric" in row)
    assert "<script" not in html


def test_the_command_makes_the_report_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`polytask report FOLDER` writes the page and prints its path; a folder without a run is an error."""
    write_run(tmp_path / "run", TASKS[:1], finished=False)
    monkeypatch.setattr(sys, "argv", ["polytask", "report", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert capsys.readouterr().out.split() == [str(tmp_path / "run" / "report.html")]
    monkeypatch.setattr(sys, "argv", ["polytask", "report", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "no history.jsonl in it" in capsys.readouterr().err


def test_what_calibration_did_is_shown(tmp_path: Path) -> None:
    """The page has the class bias with the metric with and without it, the temperature, and the coverage of confidences."""
    task = task_of(Kind.CLASSIFICATION)
    results = write_run(tmp_path, [task])
    effect = {"class_bias": {"good": 0.5, "bad": -0.5}, "temperature": 2.0, "score_before": 0.25, "score": 0.75}
    results["calibration"] = {task.name: effect | {"ece_before": 0.5, "ece": 0.125, "coverage": []}}
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert ["bad", "-0.50"] in page.rows
    assert "0.2500 without, 0.7500 with it" in page.text
    assert "(0.5000 before the temperature of 2.00)" in page.text
    for row in results["diagnostics"][task.name]["coverage"]:
        assert [f"{row['confidence']:.2f}", f"{row['coverage']:.1%}", number(row["accuracy"])] in page.rows
