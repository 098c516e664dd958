"""Where lines of the log are written: in a thread of its own, so that a slow reader holds nobody up."""

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
"""Bytes that the kernel writes to a pipe in one piece: lines of several processes do not get into each other."""


_FLUSH_S = 1.0
"""What is not written so long after the end is lost: nobody reads."""


class StructuredMessage(ABC):
    """A message of the log that is more than words: `fields` where the log is JSON, else `str`."""

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """What goes into the line, the name of the `event` among it."""


class TextLines(logging.Formatter):
    """Lines for people. A traceback follows in lines of its own."""

    def __init__(self, process: str) -> None:
        # A name of a process has no % in it.
        super().__init__(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s")


class JsonLines(logging.Formatter):
    """A JSON object a line: `time`, `level`, `process` and `event`, and what else there is. A traceback is `exception`."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
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
            # Half a character, out of some message: it stays readable as an escape.
            return json.dumps(fields, default=str)


def configure_logs(process: str, form: str) -> None:
    """Sends the log of this process to standard error, warnings and what nobody catches with it.

    `process`: its name in each line. `form`: json, text, or auto, which is text where standard error is a terminal.
    Does nothing in a program that has a log already.
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
    """What Python would print."""
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    logging.getLogger(__name__).critical("nobody has caught an exception", exc_info=(kind, error, trace))


class LogWriter(logging.Handler):
    """Writes lines to a descriptor. At most `most_lines` wait; those beyond are lost, and their number is said."""

    def __init__(self, descriptor: int, most_lines: int = 10_000) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._most_lines = most_lines
        # Lines that are not written yet, also those that are just being written.
        self._lines: deque[bytes] = deque()
        self._lost = 0
        self._more = threading.Event()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a line and returns. Called with the lock of the handler."""
        if len(self._lines) >= self._most_lines:
            self._lost += 1
            return
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001, as all handlers do: a wrong message must not end who logs it
            self.handleError(record)
            return
        self._lines.append(line.encode("utf-8", "backslashreplace") + b"\n")
        if not self._more.is_set():
            self._more.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="log", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        """Waits until all is written, but not for ever."""
        end = time.monotonic() + _FLUSH_S
        while self._lines and time.monotonic() < end:
            time.sleep(0.002)

    def _work(self) -> None:
        while self._more.wait():
            self._more.clear()
            while self._lines:
                self._write_some()
                if self._lost:
                    self._say_lost()

    def _write_some(self) -> None:
        """Writes as many lines as go in one piece, but one at least."""
        piece, count = self._lines[0], 1
        while count < len(self._lines) and len(piece) + len(self._lines[count]) <= _PIPE_BUF:
            piece += self._lines[count]
            count += 1
        while piece:
            try:
                piece = piece[os.write(self._descriptor, piece) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError:
                break  # nobody will ever read it
        for _ in range(count):
            self._lines.popleft()

    def _say_lost(self) -> None:
        self.acquire()
        try:
            lost, self._lost = self._lost, 0
            message = "%d lines of the log are lost: it is read too slowly"
            self.emit(logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, (lost,), None))
        finally:
            self.release()
