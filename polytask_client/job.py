"""Job: answers a file of inputs line by line, and resumes after it was killed.

The answers are appended to OUTPUT.part, which is renamed to OUTPUT when it is complete. OUTPUT.job identifies the job,
so that answers of another job are never mixed in.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from polytask_client.answers import Answer, Failed
from polytask_client.client import Client
from polytask_client.errors import Problem
from polytask_client.messages import Input, encode
from polytask_client.progress import Bar

STDIO = Path("-")
"""Stands for standard input or output in place of a file."""

_FIRST_CALL_S = 10.0
"""Deadline of the first call: a wrong address should show soon, even if the job may wait long for a busy service."""

_CHUNK = 1 << 20
_FAILED_LINE = b'{"error"'


class JobError(Exception):
    """The job cannot be done. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Job:
    """Task, options and sizes of the requests. `model`: the model that must answer all lines."""

    task: str
    model: str
    options: Mapping[str, Any] | None
    batch_size: int
    concurrency: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """Number of lines written, including those of an earlier run, and number of errors among them."""

    lines: int
    failed: int


def read_options(text: str | None) -> dict[str, Any] | None:
    """The options in a JSON text from the command line. Raises JobError if it is no JSON object."""
    if text is None:
        return None
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise JobError(f"options must be a JSON object, got {text!r}")
    return options


def plan(client: Client, task: str, options: Mapping[str, Any] | None, batch_size: int, concurrency: int) -> Job:
    """The job, for the model that is served now. Raises PolytaskError, or JobError for an unknown task."""
    served = client.tasks(deadline_s=_FIRST_CALL_S)
    if task not in served.tasks:
        raise JobError(f"{served.model} has no task {task!r}; its tasks are {', '.join(served.tasks)}")
    return Job(task, served.model, options, batch_size, concurrency)


def run(client: Client, job: Job, source: Path, target: Path) -> Outcome:
    """Writes to `target` one line for each line of `source`. Raises JobError, PolytaskError and OSError.

    The answer to a line that is no input, or that the service refuses, is its problem, which is also printed on stderr.
    """
    if target == STDIO:
        if source == STDIO:
            return _answer_lines(client, job, sys.stdin.buffer, sys.stdout.buffer, Outcome(0, 0), None)
        with _open(source) as lines:
            return _answer_lines(client, job, lines, sys.stdout.buffer, Outcome(0, 0), _hash_and_count(source)[1])
    if source == STDIO:
        return _run_once(client, job, target)
    return _run_resumable(client, job, source, target)


def _run_once(client: Client, job: Job, target: Path) -> Outcome:
    """Answers standard input. It cannot be read again, so such a job cannot be resumed."""
    _refuse_existing(target)
    with _open_part(target) as part:
        if part.read(1):
            raise JobError(f"{part.name} exists already, and a job on stdin cannot be resumed; remove it first")
        outcome = _answer_lines(client, job, sys.stdin.buffer, part, Outcome(0, 0), None)
        _finish(part, target)
    return outcome


def _run_resumable(client: Client, job: Job, source: Path, target: Path) -> Outcome:
    _refuse_existing(target)
    digest, total = _hash_and_count(source)
    identity = {"input_sha256": digest, "task": job.task, "model": job.model, "options": job.options}
    record = _sibling(target, ".job")
    with _open_part(target) as part:
        if part.read(1):
            _require_same_job(record, identity, part.name)
        else:
            _write_record(record, identity)
        done = _resume_point(part)
        if done.lines > total:
            raise JobError(f"{part.name} has more lines than {source}; remove it to start anew")
        with _open(source) as lines:
            outcome = _answer_lines(client, job, itertools.islice(lines, done.lines, None), part, done, total)
        _finish(part, target)
    record.unlink()
    return outcome


def _answer_lines(
    client: Client, job: Job, lines: Iterable[bytes], out: BinaryIO, done: Outcome, total: int | None
) -> Outcome:
    """Writes an answer for each of `lines`, which follow the lines that are done."""
    num_lines, failed = done.lines, done.failed
    with (
        Bar(total, done.lines) as bar,
        contextlib.closing(
            client.stream(
                job.task,
                map(_parse_line, lines),
                batch_size=job.batch_size,
                concurrency=job.concurrency,
                options=job.options,
                keep_failed=True,
                model=job.model,
            )
        ) as answers,
    ):
        for answer in answers:
            num_lines += 1
            if isinstance(answer, Failed):
                failed += 1
                bar.print_line(f"line {num_lines}: {answer.problem.detail}")
            # Flushed at once, so that a killed job loses no answer that it has received.
            out.write(_json_line(answer))
            out.flush()
            bar.advance()
    return Outcome(num_lines, failed)


def _parse_line(line: bytes) -> Input | Failed:
    """The input in a line, or a `Failed` if it is not JSON. The service checks whether it fits the task."""
    try:
        value: Input = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)
        encode(value)  # half of a surrogate pair can be parsed, but not sent
    except json.JSONDecodeError as error:
        return _not_json(f"{error.msg}, at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return _not_json(str(error))
    return value


def _not_json(why: str) -> Failed:
    return Failed.of(Problem("urn:polytask:not-json", "Not JSON", 422, f"the line is not JSON: {why}"))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"there is no {name}")


def _json_line(answer: Answer) -> bytes:
    return json.dumps(answer.fields, ensure_ascii=False).encode() + b"\n"


def _hash_and_count(source: Path) -> tuple[str, int]:
    """The sha256 of a file and the number of its lines; the last line need not end in a line break."""
    digest, num_lines, last = hashlib.sha256(), 0, b"\n"
    with _open(source) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            num_lines += chunk.count(b"\n")
            last = chunk[-1:]
    return digest.hexdigest(), num_lines + (last != b"\n")


def _resume_point(part: BinaryIO) -> Outcome:
    """The complete lines of an earlier run. Cuts off an incomplete last line, and leaves the file at its end."""
    part.seek(0)
    num_lines, failed, end = 0, 0, 0
    for line in part:
        if not line.endswith(b"\n"):
            break
        num_lines += 1
        failed += line.startswith(_FAILED_LINE)
        end += len(line)
    part.seek(end)
    part.truncate()
    return Outcome(num_lines, failed)


@contextlib.contextmanager
def _open_part(target: Path) -> Iterator[BinaryIO]:
    """The unfinished output, locked for this process. Raises JobError if another process holds the lock."""
    path = _sibling(target, ".part")
    with path.open("a+b") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobError(f"another process is writing {path}") from None
        part.seek(0)
        yield part


def _finish(part: BinaryIO, target: Path) -> None:
    os.fsync(part.fileno())
    Path(part.name).replace(target)


def _sibling(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)


def _open(source: Path) -> BinaryIO:
    if source.exists() and not source.is_file():
        raise JobError(f"{source} is not a file that can be read twice; use --input - and let it come from stdin")
    try:
        return source.open("rb")
    except OSError as error:
        raise JobError(f"cannot read {source}: {error.strerror}") from None


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise JobError(f"{target} exists already; remove it or name another --output")


def _require_same_job(record: Path, identity: Mapping[str, Any], part: str) -> None:
    """Raises JobError unless the existing answers belong to the same job."""
    try:
        before = json.loads(record.read_bytes())
    except (OSError, ValueError):
        raise JobError(
            f"{part} exists, but {record} does not say what it belongs to; remove it to start anew"
        ) from None
    names = {
        "input_sha256": "another input file",
        "task": "another task",
        "model": "another model",
        "options": "other options",
    }
    other = [
        name if key == "input_sha256" else f"{name} ({before.get(key)!r})"
        for key, name in names.items()
        if before.get(key) != identity[key]
    ]
    if other:
        raise JobError(
            f"{part} has answers to {' and '.join(other)}; remove it to start anew, or name another --output"
        )


def _write_record(record: Path, identity: Mapping[str, Any]) -> None:
    temporary = _sibling(record, ".new")
    temporary.write_text(json.dumps(identity), encoding="utf-8")
    temporary.replace(record)
