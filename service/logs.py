"""The log: lines on standard error, of text or JSON, in the same form from every process of a deployment."""

from __future__ import annotations

import json
import logging
import sys
import threading
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec

from service.log_writer import LogWriter

_ENCODER = msgspec.json.Encoder()
_STDERR = 2


class Event(ABC):
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
        if isinstance(record.msg, Event):
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
