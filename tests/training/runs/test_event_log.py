"""Tests of training/history.py."""

from __future__ import annotations

from pathlib import Path

from polytask.training.runs.event_log import Event, EventLog, read_history

_EVENTS: list[Event] = [{"event": "start", "recipe": "é"}, {"event": "progress", "loss": 0.1}, {"event": "finish"}]


def test_events_are_there_at_once(tmp_path: Path) -> None:
    """What is appended can be read, in order."""
    history = EventLog(tmp_path / "history.jsonl")
    for count, event in enumerate(_EVENTS, start=1):
        history.append(event)
        assert read_history(tmp_path / "history.jsonl") == _EVENTS[:count]


def test_a_history_goes_on_after_a_given_size(tmp_path: Path) -> None:
    """What was appended after the size was taken is cut off, and what follows stands in its place."""
    path = tmp_path / "history.jsonl"
    history = EventLog(path)
    history.append(_EVENTS[0])
    size = history.size
    history.append(_EVENTS[1])
    again = EventLog(path, size)
    assert again.size == size
    again.append(_EVENTS[2])
    assert read_history(path) == [_EVENTS[0], _EVENTS[2]]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    """However much of its last line a killed run wrote, even half of a letter, the lines before it can be read."""
    path = tmp_path / "history.jsonl"
    history = EventLog(path)
    for event in _EVENTS[:2]:
        history.append(event)
    whole = history.size
    history.append(_EVENTS[0])
    content = path.read_bytes()
    for size in range(whole, len(content)):
        path.write_bytes(content[:size])
        assert read_history(path) == _EVENTS[:2]
