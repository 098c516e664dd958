"""Log: the form of its lines, and what slow, late and missing readers get."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from polytask.service.observability.logs import JsonLines, LogWriter, RecurringLine, TextLines
from tests.service.support import checkpoints
from tests.service.support.processes import PATIENCE_S, until
from tests.service.support.serving import body

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def record(message: str, *arguments: object, **more: Any) -> logging.LogRecord:
    """A record as loggers make it."""
    return logging.LogRecord("a.module", logging.WARNING, "file.py", 1, message, arguments, more.get("exc_info"))


def test_a_message_is_an_object_with_its_time_level_and_process() -> None:
    """A JSON line has the time in UTC, the level, the process, the message and the logger."""
    fields = json.loads(JsonLines("engine-0").format(record("%d rows", 4)))
    assert datetime.now(UTC) - datetime.fromisoformat(fields.pop("time")) < timedelta(minutes=1)
    assert fields == {"level": "warning", "process": "engine-0", "event": "4 rows", "logger": "a.module"}


def test_an_exception_is_one_line() -> None:
    """A traceback is a field of its JSON line, with everything that Python would print."""
    error = ValueError("two\nlines")
    line = JsonLines("service").format(record("failed", exc_info=(ValueError, error, None)))
    assert "\n" not in line
    assert json.loads(line)["exception"] == "ValueError: two\nlines"


def test_half_a_character_does_not_lose_a_line() -> None:
    """A message that is not valid Unicode is written with an escape."""
    assert json.loads(JsonLines("service").format(record("\ud800")))["event"] == "\ud800"


def test_text_is_for_people() -> None:
    """A text line has time, level, process, module and message."""
    assert TextLines("engine-0").format(record("%d rows", 4)).endswith(" WARNING engine-0 a.module: 4 rows")


def test_what_happens_often_is_logged_rarely(caplog: pytest.LogCaptureFixture) -> None:
    """A recurring line is written for the first event, and then at most once in its interval, with the number since."""
    now = threading.Event()
    line = RecurringLine(logging.getLogger("often"), logging.WARNING, "%d times", interval_s=0.2)
    for _ in range(1000):
        line.count()
    now.wait(0.3)
    line.count(3)
    assert [record.message for record in caplog.records] == ["1 times", "1002 times"]


def logged(code: str, form: str) -> tuple[str, int]:
    """The standard error of a program that has configured its log, and its exit code."""
    configured = (
        f"from polytask.service.observability.logs import configure_logs; configure_logs('test', {form!r})\n{code}"
    )
    done = subprocess.run([sys.executable, "-c", configured], capture_output=True, text=True, check=False)
    return done.stderr, done.returncode


@pytest.mark.parametrize("form", ["auto", "json"])
def test_all_that_python_says_is_lines_of_json(form: str) -> None:
    """Warnings, exceptions in threads and the exception that ends the program are JSON lines where no terminal reads them."""
    code = (
        "import threading, warnings\n"
        "warnings.warn('careful')\n"
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()\n"
        "[][0]"
    )
    said, exit_code = logged(code, form)
    warned, thread, last = map(json.loads, said.splitlines())
    assert exit_code == 1
    assert "UserWarning: careful" in warned["event"]
    assert thread["exception"].endswith("ZeroDivisionError: division by zero")
    assert (last["level"], last["exception"].splitlines()[-1]) == ("critical", "IndexError: list index out of range")


def test_text_can_be_asked_for() -> None:
    """The form `text` writes text lines also where standard error is no terminal."""
    said, _ = logged("import logging; logging.getLogger('a').info('hello')", "text")
    assert said.endswith(" INFO test a: hello\n")


def test_a_start_that_fails_says_so_in_a_line_of_the_log(tmp_path: Path) -> None:
    """The last JSON line of a failed start has the reason."""
    command = [sys.executable, "-m", "polytask", "serve", "--store", str(tmp_path), "--port", "0"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    last = json.loads(done.stderr.splitlines()[-1])
    assert last["level"] == "critical"
    assert "no such checkpoint" in last["event"]


def test_all_processes_of_a_deployment_log_alike(tmp_path: Path) -> None:
    """Every line of supervisor, engine and frontend is JSON with their name; a request has one line, from its frontend."""
    checkpoints.saved(tmp_path)
    variables = {
        "POLYTASK_STORE": str(tmp_path),
        "POLYTASK_MODEL": "tiny",
        "POLYTASK_PORT": "0",
        "POLYTASK_THREADS": "1",
        "POLYTASK_FRONTENDS": "1",
        "POLYTASK_TOKEN_BUDGET": "1024",
        "POLYTASK_LOG_REQUESTS": "1",
    }
    command, log = [sys.executable, "-m", "polytask", "serve"], tmp_path / "log"
    with log.open("w") as stderr, subprocess.Popen(command, env=os.environ | variables, stderr=stderr) as popen:
        try:
            until(lambda: "http://" in log.read_text())
            (url,) = re.findall(r'http://[^\s"]+', log.read_text())
            with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
                until(lambda: client.get("/readyz").status_code == 200)
                headers = {"X-Request-Id": "mine", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
                assert client.post("/v1/tasks/mood/predict", content=body("cat"), headers=headers).status_code == 200
            popen.send_signal(signal.SIGTERM)
            assert popen.wait(PATIENCE_S) == 0
        finally:
            popen.kill()
    said = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["process"] for line in said} == {"supervisor", "engine-0", "frontend-0"}
    (request,) = [line for line in said if line["event"] == "request"]
    stages = request.pop("stages")
    assert list(stages) == ["tokenize", "queue", "forward", "postprocess"]
    assert 0 < sum(stages.values()) < request.pop("seconds")
    del request["time"]
    assert request == {
        "level": "info",
        "process": "frontend-0",
        "event": "request",
        "request_id": "mine",
        "method": "POST",
        "path": "/v1/tasks/{task}/predict",
        "status": 200,
        "outcome": "ok",
        "task": "mood",
        "inputs": 1,
        "rows": 1,
        "tokens": 3,
        "revision": "tiny/1",
        "trace_id": TRACE,
    }


_PIPE_BYTES = 65_536
"""What a pipe holds that nobody reads, on Linux."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The read end and the write end of a pipe."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def logger_of(writer: LogWriter) -> logging.Logger:
    """A logger with this writer as its only handler."""
    logger = logging.getLogger("tests.log_writer")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [writer]
    return logger


def test_lines_come_in_order_and_are_there_after_a_flush(pipe: tuple[int, int]) -> None:
    """After a flush all lines have been written in order, whatever characters are in them."""
    writer = LogWriter(pipe[1])
    logger = logger_of(writer)
    texts = [f"line {number} ü \ud800" for number in range(300)]
    for text in texts:
        logger.info(text)
    writer.flush()
    read = os.read(pipe[0], _PIPE_BYTES).decode()
    assert read == "".join(text.replace("\ud800", "\\ud800") + "\n" for text in texts)


def test_a_reader_that_does_not_read_holds_nobody_up(pipe: tuple[int, int]) -> None:
    """Logging never blocks: lines beyond the limit are lost, and the log says their number when it is read again."""
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


def test_a_process_ends_though_nobody_reads_its_log() -> None:
    """With a full pipe that nobody reads, the end of a process waits about a second for a reader, and no longer."""
    code = (
        "import logging; from polytask.service.observability.logs import configure_logs; configure_logs('test', 'json')\n"
        "for _ in range(100): logging.getLogger('a').info('x' * 4000)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as process:
        try:
            assert process.wait(timeout=PATIENCE_S) == 0
        finally:
            process.kill()


def test_a_reader_that_has_gone_is_no_failure() -> None:
    """Logging to a pipe without a reader raises nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    writer = LogWriter(writing)
    logger_of(writer).info("for nobody")
    writer.flush()
    os.close(writing)


def test_a_message_that_is_wrong_does_not_end_who_logs_it(
    pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """A message with wrong arguments is reported on standard error, and the next line is written."""
    writer = LogWriter(pipe[1])
    logger = logger_of(writer)
    logger.info("%d", "one")
    logger.info("two")
    writer.flush()
    assert os.read(pipe[0], 100) == b"two\n"
    assert "TypeError" in capsys.readouterr().err
