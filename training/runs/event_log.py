"""Event log of a run: its history as JSON lines, appended one by one and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from polytask.model_store.durable_files import flush

Event = dict[str, Any]


class EventLog:
    """Appends events to a file. Each can be read as soon as it was appended, and survives a kill of the process."""

    def __init__(self, path: Path, size: int = 0) -> None:
        """Keeps the first `size` bytes of the file and cuts off the rest."""
        self._path = path
        with path.open("ab") as file:
            file.truncate(size)

    @property
    def size(self) -> int:
        """Size of the file in bytes, all of which are on the disk."""
        flush(self._path)
        return self._path.stat().st_size

    def append(self, event: Event) -> None:
        """Appends an event."""
        with self._path.open("ab") as file:
            file.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")


def read_history(path: Path) -> list[Event]:
    """All events, in order, without a last line that is incomplete because the run was killed while it wrote."""
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]
