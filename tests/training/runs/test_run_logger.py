"""Run logger: the events of a run and their content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from polytask.training.runs.console_display import Display
from polytask.training.runs.event_log import Event, EventLog, read_history
from polytask.training.runs.run_logger import RunLogger, Step
from tests.support import tiny

_TASKS = tiny.tasks()
_TOTAL = 1000


def _logger(path: Path) -> RunLogger:
    return RunLogger(_TASKS, _TOTAL, Display(Console(quiet=True), _TASKS, _TOTAL), EventLog(path))


def _advance(logger: RunLogger, updates: range) -> None:
    """Advances by updates of three examples: two of task 0, one of another."""
    for update in updates:
        losses = [1.0, 2.0, 0.5 * update]
        logger.advance(Step(3 * (update + 1), update + 1, 0.1, [0, 0, 1 + update % 2], losses, 3, stop=False))


def _progress(path: Path) -> list[Event]:
    return [event for event in read_history(path) if event["event"] == "progress"]


def test_there_are_about_a_hundred_progress_events(tmp_path: Path) -> None:
    """About a hundred progress events count every example once, the last one at the end of the run."""
    logger = _logger(tmp_path / "history")
    _advance(logger, range(334))
    events = _progress(tmp_path / "history")
    assert 95 <= len(events) <= 100
    assert (events[-1]["examples"], events[-1]["updates"]) == (1002, 334)
    for name, count in ((_TASKS[0].name, 668), (_TASKS[1].name, 167), (_TASKS[2].name, 167), (_TASKS[3].name, 0)):
        assert sum(event["tasks"][name]["examples"] for event in events) == count
    assert [event["examples"] for event in events] == sorted({event["examples"] for event in events})


def test_a_run_may_turn_out_shorter(tmp_path: Path) -> None:
    """When the run's total falls, events are hundredths of the new one, and no example is counted twice."""
    logger = _logger(tmp_path / "history")
    _advance(logger, range(50))
    for update in range(50, 100):
        logger.advance(Step(3 * (update + 1), update + 1, 0.1, [0, 0, 1], [1.0, 1.0, 1.0], 3, stop=False, total=300))
    events = _progress(tmp_path / "history")
    assert sum(event["tasks"][_TASKS[0].name]["examples"] for event in events) == 200
    assert events[-1]["examples"] == 300
    assert 40 <= len([event for event in events if event["examples"] > 150]) <= 50


def test_losses_are_means_over_the_interval(tmp_path: Path) -> None:
    """Each task's loss is the mean since the last event; a task without examples has none."""
    logger = _logger(tmp_path / "history")
    _advance(logger, range(7))
    first, second = _progress(tmp_path / "history")
    assert first["updates"] == 4
    assert first["tasks"][_TASKS[0].name] == {"examples": 8, "loss": 1.5}
    assert first["tasks"][_TASKS[1].name] == {"examples": 2, "loss": 0.5}
    assert first["tasks"][_TASKS[6].name] == {"examples": 0, "loss": None}
    assert first["loss"] == pytest.approx((4 * 3.0 + 0.5 * (0 + 1 + 2 + 3)) / 12)
    assert second["tasks"][_TASKS[2].name] == {"examples": 1, "loss": 2.5}


def test_a_logger_can_be_restored(tmp_path: Path) -> None:
    """A logger restored in the middle of an interval emits the same events as an undisturbed one."""
    whole = _logger(tmp_path / "whole")
    _advance(whole, range(50))
    first = _logger(tmp_path / "parts")
    _advance(first, range(18))
    state = json.loads(json.dumps(first.state()))
    _advance(first, range(18, 30))
    again = RunLogger(
        _TASKS, _TOTAL, Display(Console(quiet=True), _TASKS, _TOTAL), EventLog(tmp_path / "parts", state["history"])
    )
    again.restore(state)
    _advance(again, range(18, 50))
    resumed = _progress(tmp_path / "parts")
    assert [event["seconds"] for event in resumed] == sorted(event["seconds"] for event in resumed)
    for event in (*resumed, *_progress(tmp_path / "whole")):
        del event["seconds"]
    assert resumed == [{k: v for k, v in e.items() if k != "seconds"} for e in _progress(tmp_path / "whole")]


def test_the_other_events_say_what_happened(tmp_path: Path) -> None:
    """Start, resume, evaluation and finish events have tasks, parameters, scores and the version."""
    logger = _logger(tmp_path / "history")
    logger.start("toy", {"total": 3})
    _advance(logger, range(1))
    logger.resume()
    scores = {task.name: {"accuracy": 0.5} for task in _TASKS}
    logger.log_evaluation(scores)
    logger.finish("toy/1", "trained")
    start, resume, evaluation, finish = read_history(tmp_path / "history")
    assert (start["recipe"], start["total_examples"], start["parameters"]) == ("toy", _TOTAL, {"total": 3})
    assert start["tasks"][0] == {"name": _TASKS[0].name, "kind": "classification"}
    assert (resume["event"], resume["examples"]) == ("resume", 3)
    assert evaluation == {"event": "evaluation", "examples": 3, "scores": scores}
    assert (finish["examples"], finish["version"]) == (3, "toy/1")
