"""`polytask predict`: from a file of inputs to a file of answers."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polytask import cli
from polytask_client import Client, Retries
from polytask_client.job import Job, Outcome, run
from tests.client.support.scripted import Server, hangs, numbers, problem, says, scripted
from tests.service.support.processes import until

Command = Callable[..., tuple[int, str, str]]
JOB = Job("number", "numbers/1", None, batch_size=2, concurrency=2)
LINES = [b'"%d"' % number if number % 5 else b"nonsense" for number in range(1, 12)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A service that answers numbers, at most three in one request."""
    with scripted(numbers(limit=3)) as server:
        yield server


@pytest.fixture
def command(server: Server, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Command:
    """Runs `polytask predict` in a folder with `in.jsonl`; returns exit code, stdout and stderr."""

    def predict(*arguments: str, url: str = server.url) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["polytask", "predict", *arguments, "--url", url])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capfdbinary.readouterr()
        return int(stopped.value.code or 0), captured.out.decode(), captured.err.decode()

    return predict


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the command, with an input of four lines."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text('"1"\n"2"\n"3"\n"4"\n', encoding="utf-8")
    return tmp_path


FILES = ("number", "--input", "in.jsonl", "--output", "out.jsonl")


def read(path: Path) -> list[Any]:
    """The lines of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_line_has_its_answer(command: Command, folder: Path) -> None:
    """The output has the answers of the service in the order of the lines, and no other file is left."""
    assert command(*FILES) == (0, "", "4 lines, 0 of them errors, in out.jsonl\n")
    assert read(folder / "out.jsonl") == [{"value": 1.0}, {"value": 2.0}, {"value": 3.0}, {"value": 4.0}]
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_bad_line_is_answered_with_its_problem(command: Command, folder: Path) -> None:
    """A line that is no JSON or no input gets its problem; its number is printed on stderr, and the exit code is 1."""
    bad = [b"nonsense", b"", b'"\xff"', b"NaN", b'"\\ud800"', b"[" * 100_000, b"7", b'{"text": "1"}', b'"x"']
    (folder / "in.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join([b'"1"', *bad, b'"2"']))
    code, _, err = command(*FILES)
    first, *failed, last = read(folder / "out.jsonl")
    assert (code, first, last) == (1, {"value": 1.0}, {"value": 2.0})
    assert [line["error"]["status"] for line in failed] == [422] * len(bad)
    assert [line["error"]["type"] for line in failed[:6]] == ["urn:polytask:not-json"] * 6
    assert [line["error"]["detail"] for line in failed[6:]] == ["inputs[0]: must be a number"] * 3
    assert "line 2: the line is not JSON: Expecting value, at column 1\n" in err
    assert "line 10: inputs[0]: must be a number\n" in err
    assert err.endswith("11 lines, 9 of them errors, in out.jsonl\n")


def test_stdin_to_stdout(command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `-` inputs come from stdin and answers, and nothing else, go to stdout; either may be a file."""
    stdin = io.TextIOWrapper(io.BytesIO(b'"1"\n"2"\n'))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert command("number", "--input", "-", "--output", "-")[:2] == (0, '{"value": 1.0}\n{"value": 2.0}\n')
    assert command("number", "--input", "in.jsonl", "--output", "-")[1].count("\n") == 4
    stdin.seek(0)
    assert command("number", "--input", "-", "--output", "out.jsonl")[0] == 0
    assert len(read(folder / "out.jsonl")) == 2


def test_an_empty_file_has_an_empty_answer(command: Command, folder: Path) -> None:
    """An empty input file gives an empty output file and exit code 0."""
    (folder / "in.jsonl").write_bytes(b"")
    assert command(*FILES)[0] == 0
    assert (folder / "out.jsonl").read_bytes() == b""


def test_options_are_sent(command: Command, folder: Path) -> None:
    """The JSON object in `--options` is sent; anything else is refused."""
    with scripted(numbers()) as server:
        assert command(*FILES, "--options", '{"top_k": 2}', url=server.url)[0] == 0
        assert server.asked[-1].body["options"] == {"top_k": 2}
    for wrong in ("top_k", "[1]"):
        code, _, err = command("number", "--input", "in.jsonl", "--output", "other.jsonl", "--options", wrong)
        assert (code, err) == (2, f"error: options must be a JSON object, got {wrong!r}\n")
    assert not (folder / "other.jsonl").exists()


def refused(command: Command, *arguments: str, **options: Any) -> str:
    """The error message of a command that does nothing."""
    code, out, err = command(*arguments, **options)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.usefixtures("folder")
def test_a_job_that_cannot_be_done_is_refused(command: Command) -> None:
    """A job that cannot be done is refused in one line, before anything is written."""
    assert "has no task 'nubmer'; its tasks are number, other" in refused(command, "nubmer", *FILES[1:])
    assert "cannot read missing.jsonl" in refused(command, "number", "--input", "missing.jsonl", *FILES[3:])
    assert "read twice; use --input -" in refused(command, "number", "--input", "/dev/null", *FILES[3:])
    assert "in.jsonl exists already" in refused(command, *FILES[:3], "--output", "in.jsonl")
    assert "is not an address" in refused(command, *FILES, url="nowhere")


@pytest.mark.usefixtures("folder")
def test_no_answer_is_exit_code_three(command: Command) -> None:
    """If the service gives no answer, the exit code is 3 and stderr has the reason."""
    with scripted(problem(401, "Unauthorized")) as server:
        assert command(*FILES, url=server.url)[::2] == (3, "stopped: Unauthorized (401): not now\n")
    with scripted(numbers(), hangs) as server:
        code, _, err = command(*FILES, "--deadline-s", "0.2", url=server.url)
        assert (code, err) == (3, f"stopped: {server.url} did not answer by the deadline\n")


def test_a_stopped_job_goes_on(command: Command, folder: Path) -> None:
    """A job that resumes does not send answered lines again."""
    with scripted(numbers(), numbers(), problem(500)) as server:
        code, _, err = command(*FILES, "--batch-size", "3", "--concurrency", "1", url=server.url)
        assert (code, err) == (3, "stopped: Busy (500): not now\n")
        assert len(read(folder / "out.jsonl.part")) == 3
        assert not (folder / "out.jsonl").exists()
        server.script[:] = [numbers()]
        assert command(*FILES, url=server.url)[0] == 0
        assert server.asked[-1].body == {"inputs": ["4"]}
    assert [line["value"] for line in read(folder / "out.jsonl")] == [1, 2, 3, 4]


def test_answers_to_something_else_are_not_added_to(command: Command, folder: Path) -> None:
    """A job that differs from the unfinished one is refused with the difference, and the output is unchanged."""
    with scripted(numbers(), numbers(), problem(500)) as server:
        command(*FILES, "--batch-size", "1", "--concurrency", "1", url=server.url)
    part = folder / "out.jsonl.part"
    before = part.read_bytes()
    assert before
    assert "other task ('number')" in refused(command, "other", *FILES[1:])
    assert "other options (None)" in refused(command, *FILES, "--options", "{}")
    with scripted(says(200, {"model": "numbers/2", "tasks": [{"name": "number", "kind": "regression"}]})) as server:
        assert "another model ('numbers/1')" in refused(command, *FILES, url=server.url)
    (folder / "in.jsonl").write_text('"5"\n', encoding="utf-8")
    assert "another input file;" in refused(command, *FILES)
    (folder / "out.jsonl.job").unlink()
    assert "does not say what it belongs to" in refused(command, *FILES)
    assert part.read_bytes() == before


def test_an_output_has_one_writer(folder: Path, server: Server) -> None:
    """A second process with the same output is refused."""
    code = "import fcntl, sys; file = open('out.jsonl.part', 'w'); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert predict_process(server.url, folder).wait() == 2
        other.communicate("\n")
    assert not (folder / "out.jsonl").exists()


@pytest.fixture(scope="module")
def undisturbed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Outcome]:
    """The output and the outcome of a job on LINES that is not interrupted."""
    return answered(server, tmp_path_factory.mktemp("undisturbed"))


def answered(server: Server, folder: Path, job: Job = JOB) -> tuple[bytes, Outcome]:
    """The output and the outcome of a job on LINES."""
    (folder / "in.jsonl").write_bytes(b"\n".join(LINES))
    with Client(server.url, retries=Retries(first_s=0.001)) as client:
        outcome = run(client, job, folder / "in.jsonl", folder / "out.jsonl")
    return (folder / "out.jsonl").read_bytes(), outcome


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(cut=st.integers(min_value=0))
def test_a_job_cut_off_at_any_byte_ends_the_same(undisturbed: tuple[bytes, Outcome], server: Server, cut: int) -> None:
    """A job resumes from any byte of its output; an incomplete line is written again, and nothing is counted twice."""
    output, _ = undisturbed
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with pytest.raises(ValueError, match="batch_size must be at least 1"):
            answered(server, folder, replace(JOB, batch_size=0))  # ends when all is ready to be written
        (folder / "out.jsonl.part").write_bytes(output[: cut % (len(output) + 1)])
        assert answered(server, folder) == undisturbed


def predict_process(url: str, folder: Path, task: str = "number", *arguments: str) -> subprocess.Popen[bytes]:
    """`polytask predict` in a process of its own."""
    root = Path(__file__).parents[2]
    line = ["predict", task, "--input", "in.jsonl", "--output", "out.jsonl", "--url", url, *arguments]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.Popen([sys.executable, "-m", "polytask", *line], cwd=folder, env=environment)


def has_grown(path: Path, size: int) -> bool:
    """Whether the file has more than `size` bytes."""
    return path.exists() and path.stat().st_size > size


def test_a_job_killed_again_and_again_ends_the_same(service: str, tmp_path: Path) -> None:
    """A job that is killed three times keeps every answer that was written, and answers every line once."""
    (tmp_path / "in.jsonl").write_bytes(b"".join(b'"the cat sat %d"\n' % number for number in range(2000)))
    part, before = tmp_path / "out.jsonl.part", b""
    for _ in range(3):
        process = predict_process(service, tmp_path, "mood", "--batch-size", "2", "--concurrency", "2")
        until(partial(has_grown, part, len(before) + 2000))
        process.send_signal(signal.SIGKILL)
        process.wait()
        after = part.read_bytes()
        assert after.startswith(before)
        before = after[: after.rindex(b"\n") + 1]
    assert predict_process(service, tmp_path, "mood").wait() == 0
    output = (tmp_path / "out.jsonl").read_bytes()
    assert output.startswith(before)
    with Client(service) as client:
        expected = [answer.fields["label"] for answer in client.stream("mood", read(tmp_path / "in.jsonl"))]
    assert [json.loads(line)["label"] for line in output.splitlines()] == expected
