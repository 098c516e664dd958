"""Event log: events are appended, resumed and read."""

from __future__ import annotations

from pathlib import Path

from polytask.training.runs.event_log import Event, EventLog, read_history

_EVENTS: list[Event] = [{"event": "start", "recipe": "é"}, {"event": "progress", "loss": 0.1}, {"event": "finish"}]


def test_events_can_be_read_at_once(tmp_path: Path) -> None:
    """An event can be read right after it was appended, in order."""
    log = EventLog(tmp_path / "history.jsonl")
    for count, event in enumerate(_EVENTS, start=1):
        log.append(event)
        assert read_history(tmp_path / "history.jsonl") == _EVENTS[:count]


def test_a_log_resumes_after_a_given_size(tmp_path: Path) -> None:
    """Events after the given size are cut off, and new ones take their place."""
    path = tmp_path / "history.jsonl"
    log = EventLog(path)
    log.append(_EVENTS[0])
    size = log.size
    log.append(_EVENTS[1])
    again = EventLog(path, size)
    assert again.size == size
    again.append(_EVENTS[2])
    assert read_history(path) == [_EVENTS[0], _EVENTS[2]]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    """Events before an incomplete last line, cut at any byte, can be read."""
    path = tmp_path / "history.jsonl"
    log = EventLog(path)
    for event in _EVENTS[:2]:
        log.append(event)
    whole = log.size
    log.append(_EVENTS[0])
    content = path.read_bytes()
    for size in range(whole, len(content)):
        path.write_bytes(content[:size])
        assert read_history(path) == _EVENTS[:2]
