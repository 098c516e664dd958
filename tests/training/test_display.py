"""Tests of training/display.py."""

from __future__ import annotations

import io
import re

import pytest
import torch
from rich.console import Console

from tests import tiny
from training.display import Display
from training.examples import EncodedExample


def _examples(*task_ids: int) -> list[EncodedExample]:
    return [EncodedExample(task_id, (), None) for task_id in task_ids]


def _console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=terminal, legacy_windows=False)


def _shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_losses_are_running_means_of_each_task() -> None:
    """The first loss of a task stands as it is, later ones move it a little; tasks not yet seen are not shown."""
    console = _console(terminal=False)
    with Display(console, tiny.tasks(), 3) as display:
        display.advance(_examples(0, 6), torch.tensor([2.0, 1.0]))
        display.advance(_examples(0), torch.tensor([3.0]))
    assert _shown(console).splitlines()[-1].endswith("loss: mood 2.02, answer 1.00")


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    """A log gets at most fifty lines however long the run, the last of them at its end, in plain text."""
    console = _console(terminal=False)
    with Display(console, tiny.tasks(), 1000) as display:
        for _ in range(334):
            display.advance(_examples(0, 1, 2), torch.ones(3))
    lines = _shown(console).splitlines()
    assert 40 <= len(lines) <= 50
    assert lines[-1].startswith("1,000 of 1,000 examples, ")
    seen = [int(line.split()[0].replace(",", "")) for line in lines]
    assert seen == sorted(seen)
    assert "\x1b" not in _shown(console)


def test_a_terminal_shows_progress_and_time_left() -> None:
    """On a terminal there is a bar with the examples seen of all, and the losses."""
    console = _console(terminal=True)
    with Display(console, tiny.tasks(), 10) as display:
        display.advance(_examples(0, 1, 2), torch.ones(3))
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", _shown(console))
    assert "3/10 examples," in text
    assert " left" in text
    assert "loss: mood 1.00, topics 1.00, closeness 1.00" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_a_failing_run_closes_its_display(terminal: bool) -> None:
    """An error in the run passes through and leaves the console free for what comes next."""
    console = _console(terminal=terminal)
    with pytest.raises(ValueError, match="shorter"), Display(console, tiny.tasks(), 10) as display:
        display.advance(_examples(0, 1), torch.ones(1))
    with Display(console, tiny.tasks(), 10) as display:
        display.advance(_examples(0) * 10, torch.ones(10))
    assert "10" in _shown(console)
