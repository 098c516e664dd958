"""Progress: bars on a terminal, lines in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from polytask.model.network import Network
from polytask.training.evaluation.evaluate import answer_inputs
from polytask.training.runs import console_display, progress
from polytask.training.runs.console_display import Display
from polytask.training.runs.progress import ProgressBar, num_rows, rows_counted, track
from tests.support import tiny
from tests.training.conftest import Workshop


def _console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=100, force_terminal=terminal, legacy_windows=False)


def _shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal there is a line for what was done since the last one long enough ago, and none for short works."""
    console = _console()
    assert list(track(console, "reading", [1, 2, 3])) == [1, 2, 3]
    assert _shown(console) == ""
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    with ProgressBar(console, "evaluating", 3000, "rows") as bar:
        bar.advance(1000)
        bar.advance(5000)
    assert _shown(console).splitlines() == ["evaluating: 1,000 of 3,000 rows", "evaluating: 3,000 of 3,000 rows"]


def test_a_terminal_has_a_bar_that_goes_away() -> None:
    """On a terminal a bar shows what is done and how much of it."""
    console = _console(terminal=True)
    for _ in track(console, "reading", ["a", "b"]):
        pass
    assert "reading" in _shown(console)
    assert "0/2" in _shown(console)


def test_what_follows_the_training_is_said_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation and publication print lines without a terminal, too."""
    monkeypatch.setattr(console_display, "LOG_INTERVAL_S", 0.0)
    console = _console()
    with Display(console, tiny.tasks(), 10) as display:
        display.begin("publishing", 4)
        display.advance_work()
    assert _shown(console).splitlines() == ["publishing, 0% done", "publishing, 25% done"]


def test_rows_are_counted_while_they_are_answered(workshop: Workshop, tiny_network: Network) -> None:
    """Every row of every forward counts once, candidates each, and nothing counts after the block."""
    inputs = [tiny.inputs()[task.name] for task in tiny_network.tasks]
    counted: list[int] = []
    with rows_counted(tiny_network, counted.append):
        for task_id, item in enumerate(inputs):
            answer_inputs(tiny_network, workshop.encoder, task_id, [item] * 2)
    assert sum(counted) == 2 * num_rows(inputs)
    answer_inputs(tiny_network, workshop.encoder, 0, inputs[:1])
    assert sum(counted) == 2 * num_rows(inputs)
