"""Console display: the table on a terminal, and lines without one."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from polytask.training.runs.console_display import Display
from tests.support import tiny


def _console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=terminal, legacy_windows=False)


def _shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_losses_are_running_means_of_each_task() -> None:
    """A task's first loss is shown, later ones change it a little, and tasks not seen yet have none."""
    console = _console(terminal=False)
    with Display(console, tiny.tasks(), 3) as display:
        display.advance([0, 6], [2.0, 1.0])
        display.advance([0], [3.0])
    assert _shown(console).splitlines()[-1].endswith("loss: mood 2.02, answer 1.00")


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    """Without a terminal a run prints at most fifty lines of plain text, the last one at its end."""
    console = _console(terminal=False)
    with Display(console, tiny.tasks(), 1000) as display:
        for _ in range(334):
            display.advance([0, 1, 2], [1.0] * 3)
    lines = _shown(console).splitlines()
    assert 40 <= len(lines) <= 50
    assert lines[-1].startswith("1,000 of 1,000 examples, ")
    seen = [int(line.split()[0].replace(",", "")) for line in lines]
    assert seen == sorted(seen)
    assert "\x1b" not in _shown(console)


def _plain(console: Console) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", _shown(console))


def test_a_terminal_shows_every_task() -> None:
    """A terminal shows a bar with the number of examples and a row for each task, seen already or not."""
    console = _console(terminal=True)
    with Display(console, tiny.tasks(), 10) as display:
        display.advance([0, 0, 0, 1], [1.0, 1.0, 1.0, 0.5])
        scores = {task.name: {"first": index / 10, "second": 0.9} for index, task in enumerate(tiny.tasks())}
        display.show_scores(scores)
    last = _plain(console).split("4/10 examples,")[-1]
    assert " left" in last
    rows = {cells[0]: cells[1:] for cells in (line.split() for line in last.splitlines()) if cells}
    assert rows["task"] == ["loss", "score", "share", "examples"]
    assert rows["mood"] == ["1.000", "first", "0.0000", "75.0%", "3"]
    assert rows["topics"] == ["0.500", "first", "0.1000", "25.0%", "1"]
    assert rows["answer"] == ["first", "0.6000", "0.0%", "0"]


def test_a_terminal_shows_how_far_an_evaluation_is() -> None:
    """During an evaluation the bar shows the share that is done, and afterwards nothing of it."""
    console = _console(terminal=True)
    with Display(console, tiny.tasks(), 10) as display:
        display.begin("evaluating", 8)
        display.advance_work(2)
        display._live.refresh()
        assert "left; evaluating, 25% done" in _plain(console)
        display.advance_work(99)
        display._live.refresh()
        assert "left; evaluating, 100% done" in _plain(console)
        display.show_scores({task.name: {"accuracy": 0.5} for task in tiny.tasks()})
    assert "evaluating" not in _plain(console).split("examples,")[-1]


def test_a_display_can_be_restored() -> None:
    """A display with the state of another one shows the same."""
    shown = []
    for steps in ([3, 4], [7]):
        console, state = _console(terminal=True), None
        for count in steps:
            display = Display(console, tiny.tasks(), 7)
            if state is not None:
                display.restore(json.loads(state))
            with display:
                for index in range(count):
                    display.advance([index % 2], [0.1 * count])
                state = json.dumps(display.state())
        shown.append(_plain(console).split("task ")[-1].split())
        assert "7/7 examples" in _plain(console)
    assert [row for row in shown[0] if "%" in row or row.isdigit()] == [r for r in shown[1] if "%" in r or r.isdigit()]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_failing_run_closes_its_display(terminal: bool) -> None:
    """An error in the run is raised, and the console can be used again."""
    console = _console(terminal=terminal)
    with pytest.raises(ValueError, match="shorter"), Display(console, tiny.tasks(), 10) as display:
        display.advance([0, 1], [1.0])
    with Display(console, tiny.tasks(), 10) as display:
        display.advance([0] * 10, [1.0] * 10)
    assert "10" in _shown(console)
