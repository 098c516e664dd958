"""Log of a process: lines of JSON or text on standard error, written by a thread so that a slow reader blocks nothing."""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from types import TracebackType
from typing import Any

import msgspec

_ENCODER = msgspec.json.Encoder()
_STDERR = 2

_FLUSH_S = 1.0
"""How long the end of the process waits for a reader. Lines that are not written by then are lost."""


class StructuredMessage(ABC):
    """A log message with fields: JSON lines show `fields`, text lines `str`."""

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """The fields of the line, `event` among them."""


class TextLines(logging.Formatter):
    """Formats records as text for people. A traceback follows in lines of its own."""

    def __init__(self, process: str) -> None:
        # Names of processes contain no %.
        super().__init__(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s")


class JsonLines(logging.Formatter):
    """Formats records as one JSON object a line: `time`, `level`, `process`, `event` and further fields.

    A traceback is the field `exception`.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a line break."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "process": self._process,
        }
        if isinstance(record.msg, StructuredMessage):
            fields |= record.msg.fields()
        else:
            fields |= {"event": record.getMessage(), "logger": record.name}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        try:
            return _ENCODER.encode(fields).decode()
        except UnicodeEncodeError:
            # Half a surrogate pair in a message: JSON can hold it as an escape.
            return json.dumps(fields, default=str)


def configure_logs(process: str, form: str) -> None:
    """Sends the log of this process, warnings and uncaught exceptions to standard error.

    `process`: its name in each line. `form`: json, text, or auto, which is text where standard error is a terminal.
    Does nothing in a program whose logging is already configured.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    writer = LogWriter(_STDERR)
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    writer.setFormatter(TextLines(process) if text else JsonLines(process))
    root.addHandler(writer)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda failed: _uncaught(
        failed.exc_type, failed.exc_value or failed.exc_type(), failed.exc_traceback
    )


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Logs an exception that Python would print."""
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    logging.getLogger(__name__).critical("nobody has caught an exception", exc_info=(kind, error, trace))


class LogWriter(QueueHandler):
    """Queues lines for a thread that writes them. At most `most_lines` wait; those beyond are lost and counted."""

    def __init__(self, descriptor: int, most_lines: int = 10_000) -> None:
        self._lines: queue.Queue[logging.LogRecord] = queue.Queue(most_lines)
        super().__init__(self._lines)
        self._lost = 0
        self._lost_lock = threading.Lock()
        QueueListener(self._lines, _DescriptorHandler(descriptor, self._lost_line)).start()

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queues a formatted line and returns at once."""
        try:
            self._lines.put_nowait(record)
        except queue.Full:
            with self._lost_lock:
                self._lost += 1

    def flush(self) -> None:
        """Waits until all lines are written, but at most a second."""
        end = time.monotonic() + _FLUSH_S
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.002)

    def _lost_line(self) -> str | None:
        """A line about the lines lost since the last call, if any."""
        with self._lost_lock:
            lost, self._lost = self._lost, 0
        message = "%d lines of the log are lost: it is read too slowly"
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, (lost,), None)
        return self.format(record) if lost else None


class _DescriptorHandler(logging.Handler):
    """Writes formatted lines to a descriptor, each in one piece, and then what `lost_line` returns.

    Not a `StreamHandler`: a thread that waits in a stream's write holds its lock, and Python aborts when it then ends.
    """

    def __init__(self, descriptor: int, lost_line: Callable[[], str | None]) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lost_line = lost_line

    def emit(self, record: logging.LogRecord) -> None:
        self._write(record.getMessage())
        if (line := self._lost_line()) is not None:
            self._write(line)

    def _write(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError:
                return  # the reader has gone
