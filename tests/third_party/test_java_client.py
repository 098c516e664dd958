"""The HTTP client of the JDK, as it is, which offers HTTP/2 with its requests: Spring and others use it underneath."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.service.support import checkpoints
from tests.service.support.processes import PATIENCE_S, polytask_serve
from tests.support.omissions import program

_TENSOR = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["cat"]}
CALLS = {
    "/v1/tasks/mood/predict": {"inputs": ["cat"]},
    "/v1/predict": {"tasks": ["mood", "topics"], "inputs": ["cat"]},
    "/v1/models/mood:predict": {"instances": ["cat"]},
    "/v2/models/mood/infer": {"inputs": [_TENSOR]},
}


@pytest.mark.parametrize("flags", [[], ["--frontends", "1"]], ids=["one process", "frontends"])
def test_every_protocol_answers(tmp_path: Path, flags: list[str]) -> None:
    """Bodies with a length and in chunks get answers over HTTP/1.1 on all paths."""
    program("javac")  # it compiles the file before it runs
    checkpoints.saved(tmp_path)
    with polytask_serve("--store", str(tmp_path), "--model", "tiny", *flags) as url:
        arguments = [part for path, body in CALLS.items() for part in (path, json.dumps(body))]
        command = [program("java"), str(Path(__file__).with_name("Predict.java")), url, *arguments]
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    lines = [line.split(" ", 2) for line in run.stdout.splitlines()]
    assert [line[:2] for line in lines] == [["200", "HTTP_1_1"]] * 2 * len(CALLS)
    for fixed, chunked in zip(lines[::2], lines[1::2], strict=True):
        assert fixed[2] == chunked[2]
