"""The client alone: how little it installs, that it works, and that it is typed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import Wheels
from tests.packaging.support.distributions import CONSTRAINTS, install, run

NEEDED = {
    *("polytask-client", "httpx", "rich"),
    *("anyio", "certifi", "h11", "httpcore", "idna", "typing_extensions"),  # for httpx
    *("markdown-it-py", "mdurl", "Pygments"),  # for rich
}


@pytest.fixture(scope="module")
def python(wheels: Wheels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment into which only the client was installed, from pip's index."""
    folder = tmp_path_factory.mktemp("client") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    install(folder / "bin" / "python", "--constraint", CONSTRAINTS, wheels.client)
    return folder / "bin" / "python"


def test_the_client_brings_twelve_packages_at_most(python: Path, tmp_path: Path) -> None:
    """`pip install polytask-client` installs httpx, rich and what those two need: no torch, no numpy, no pydantic."""
    code = "from importlib.metadata import distributions; print(*(each.name for each in distributions()))"
    installed = {*run(python, "-c", code, cwd=tmp_path).split()}
    assert {"polytask-client", "httpx", "rich"} <= installed <= NEEDED


def test_the_client_alone_says_that_nothing_listens(python: Path, tmp_path: Path) -> None:
    """Where no service listens a call ends with an error of the client's, not with one of its HTTP library."""
    code = """if True:
        import socket
        from polytask_client import Client, PolytaskError, Retries
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            with Client(url, retries=Retries(max_tries=1)) as client:
                try:
                    client.predict("intent", ["my card has not arrived"])
                except PolytaskError as error:
                    print(type(error).__name__)
    """
    assert run(python, "-c", code, cwd=tmp_path).split() == ["Unreachable"]


def test_both_wheels_are_typed(scripts: Path, tmp_path: Path) -> None:
    """A type checker knows the answers of the client and the tasks of the model from the installed wheels."""
    snippet = """
from polytask.model.tasks import Task
from polytask_client import ClassificationAnswer, Client

def ask(client: Client, task: Task) -> None:
    reveal_type(client.predict("intent", ["hello"]).of(ClassificationAnswer))
    reveal_type(task.name)
"""
    (tmp_path / "snippet.py").write_text(snippet, encoding="utf-8")
    checked = ["--strict", "--python-executable", str(scripts / "python"), "--cache-dir", str(tmp_path / "cache")]
    said = run(sys.executable, "-m", "mypy", *checked, "snippet.py", cwd=tmp_path)
    revealed = [line.split("note: ")[1] for line in said.splitlines() if "Revealed type" in line]
    assert revealed == [
        'Revealed type is "tuple[polytask_client.answers.ClassificationAnswer, ...]"',
        'Revealed type is "str"',
    ]
