"""The history of a run: its events as JSON lines, appended one by one and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from polytask.model_store.durable_files import flush

Event = dict[str, Any]


class EventLog:
    """Appends events to a file; each is there for other readers, and after a kill, as soon as it is told."""

    def __init__(self, path: Path, size: int = 0) -> None:
        """Goes on after the first `size` bytes of the file and cuts off what is behind them."""
        self._path = path
        with path.open("ab") as file:
            file.truncate(size)

    @property
    def size(self) -> int:
        """Bytes so far; all of them are on the disk."""
        flush(self._path)
        return self._path.stat().st_size

    def append(self, event: Event) -> None:
        """Appends an event."""
        with self._path.open("ab") as file:
            file.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")


def read_history(path: Path) -> list[Event]:
    """All events, in order. A last line that is torn, because the run died as it wrote it, is left out."""
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]
