"""Log of a process: lines of JSON or text on standard error, written by a thread so that a slow reader blocks nothing."""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec

_ENCODER = msgspec.json.Encoder()
_STDERR = 2

_PIPE_BUF = 4096
"""Bytes that the kernel writes to a pipe in one piece, so that lines of several processes do not mix."""

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


class RecurringLine:
    """A line about what clients can cause any number of times: written once a minute at most, with the number since."""

    def __init__(self, logger: logging.Logger, level: int, message: str, interval_s: float = 60) -> None:
        """`message`: has a %d for the number."""
        self._logger = logger
        self._level = level
        self._message = message
        self._interval_s = interval_s
        self._number = 0
        self._next = 0.0

    def count(self, number: int = 1) -> None:
        """It has happened `number` times."""
        self._number += number
        now = time.monotonic()
        if now >= self._next:
            self._logger.log(self._level, self._message, self._number)
            self._number, self._next = 0, now + self._interval_s


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


class LogWriter(logging.Handler):
    """Writes lines to a descriptor in a thread of its own. At most `most_lines` wait; those beyond are lost and counted.

    Not the standard QueueHandler and QueueListener: see DECISIONS 33.
    """

    def __init__(self, descriptor: int, most_lines: int = 10_000) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._most_lines = most_lines
        # Lines that are not completely written.
        self._lines: deque[bytes] = deque()
        self._num_lost = 0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Queues a line and returns at once. Called with the handler's lock."""
        if len(self._lines) >= self._most_lines:
            self._num_lost += 1
            return
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001, as all handlers do: a wrong message must not end its caller
            self.handleError(record)
            return
        self._lines.append(line.encode("utf-8", "backslashreplace") + b"\n")
        if not self._wake.is_set():
            self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_lines, name="log", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        """Waits until all lines are written, but at most a second."""
        end = time.monotonic() + _FLUSH_S
        while self._lines and time.monotonic() < end:
            time.sleep(0.002)

    def _write_lines(self) -> None:
        while self._wake.wait():
            self._wake.clear()
            while self._lines:
                self._write_piece()
                if self._num_lost:
                    self._report_lost()

    def _write_piece(self) -> None:
        """Writes as many lines as a pipe takes in one piece, at least one. Holds no lock while it waits for the reader."""
        piece, num_lines = self._lines[0], 1
        while num_lines < len(self._lines) and len(piece) + len(self._lines[num_lines]) <= _PIPE_BUF:
            piece += self._lines[num_lines]
            num_lines += 1
        while piece:
            try:
                piece = piece[os.write(self._descriptor, piece) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError:
                break  # the reader has gone
        for _ in range(num_lines):
            self._lines.popleft()

    def _report_lost(self) -> None:
        self.acquire()
        try:
            num_lost, self._num_lost = self._num_lost, 0
            message = "%d lines of the log are lost: it is read too slowly"
            self.emit(logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, (num_lost,), None))
        finally:
            self.release()
