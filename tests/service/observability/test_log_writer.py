"""Where lines of the log are written: what a reader gets that reads slowly, late, or not at all."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator

import pytest

from polytask.service.observability.logs import LogWriter
from tests.service.support.processes import until

_PIPE_BYTES = 65_536
"""What a pipe holds that nobody reads, on Linux."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe, to read and to write."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def logger_of(writer: LogWriter) -> logging.Logger:
    """A logger that has the writer alone."""
    logger = logging.getLogger("tests.log_writer")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [writer]
    return logger


def test_lines_come_in_order_and_are_there_after_a_flush(pipe: tuple[int, int]) -> None:
    """Each with its end, whatever characters are in it."""
    writer = LogWriter(pipe[1])
    logger = logger_of(writer)
    texts = [f"line {number} ü \ud800" for number in range(300)]
    for text in texts:
        logger.info(text)
    writer.flush()
    read = os.read(pipe[0], _PIPE_BYTES).decode()
    assert read == "".join(text.replace("\ud800", "\\ud800") + "\n" for text in texts)


def test_a_reader_that_does_not_read_holds_nobody_up(pipe: tuple[int, int]) -> None:
    """Lines beyond those that may wait are lost; when somebody reads again, their number is said, and nothing else is missing."""
    writer = LogWriter(pipe[1], most_lines=50)
    logger = logger_of(writer)
    number = 3 * _PIPE_BYTES // 1000
    for count in range(number):
        logger.info("%0999d", count)
    lines: list[str] = []

    def read() -> None:
        with os.fdopen(os.dup(pipe[0]), encoding="utf-8") as end:
            for line in end:
                lines.append(line)
                if "last" in line:
                    return

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: any("are lost" in line for line in lines))
    logger.info("last")
    reader.join()
    said = [int(line.split()[0]) for line in lines if "are lost" in line]
    kept = [int(line) for line in lines if line.strip().isdecimal()]
    assert kept == sorted(kept)
    assert sum(said) == number - len(kept) > 0


def test_a_reader_that_has_gone_is_no_failure() -> None:
    """What is logged then goes nowhere."""
    reading, writing = os.pipe()
    os.close(reading)
    writer = LogWriter(writing)
    logger_of(writer).info("for nobody")
    writer.flush()
    os.close(writing)


def test_a_message_that_is_wrong_does_not_end_who_logs_it(
    pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """As with the handlers of the library, the fault is printed, and the next line is written."""
    writer = LogWriter(pipe[1])
    logger = logger_of(writer)
    logger.info("%d", "one")
    logger.info("two")
    writer.flush()
    assert os.read(pipe[0], 100) == b"two\n"
    assert "TypeError" in capsys.readouterr().err
