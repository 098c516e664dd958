"""The README is true: its examples give what it shows, its map names every file, its recipe can be read."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest

from polytask.model_store import DEFAULT_STORE
from polytask.model_store.load import load
from polytask.model_store.versions import resolve
from polytask.service.backends.torch_cpu import TorchBackend
from polytask.service.config.settings import Settings
from polytask.service.single_process import assemble
from polytask.training.recipes.schema import Recipe
from tests.service.support.processes import polytask_serve
from tests.service.support.serving import until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```bash\ncurl (.+?)\n```\n\n```json\n(.+?)\n```", README, re.DOTALL)
PROGRAMS = re.findall(r"```(python|bash)\n([^`]+?)```\n\n```text\n(.+?)```", README, re.DOTALL)
SCORE_TOLERANCE = 0.005


@pytest.fixture
def anyio_backend() -> str:
    """Tests that are coroutines run on asyncio."""
    return "asyncio"


def request_of(command: str) -> tuple[str, bytes]:
    """Path and body of a curl line."""
    words = shlex.split(command)
    url = next(word for word in words if word.startswith("localhost:8000"))
    return url.removeprefix("localhost:8000"), words[words.index("-d") + 1].encode()


def assert_alike(shown: Any, given: Any) -> None:
    """The same, scores within what rounding and other processors may change; `…` in what is shown stands for more."""
    if isinstance(shown, dict):
        assert set(shown) - {"…"} <= set(given)
        assert "…" in shown or set(shown) == set(given)
        for key in set(shown) - {"…"}:
            assert_alike(shown[key], given[key])
    elif isinstance(shown, list):
        assert len(shown) == len(given)
        for one, other in zip(shown, given, strict=True):
            assert_alike(one, other)
    elif isinstance(shown, float):
        assert given == pytest.approx(shown, abs=SCORE_TOLERANCE)
    else:
        assert given == shown


@pytest.mark.anyio
async def test_the_examples_give_what_is_shown() -> None:
    """Every curl line, sent as it stands to the embedded checkpoint, gets the answer that the README prints below it."""
    assert len(EXAMPLES) == 13
    checkpoint = load(resolve(DEFAULT_STORE, "demo"))
    worker, app = assemble(checkpoint, Settings(), TorchBackend(checkpoint.network))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        await until(lambda: worker.ready or worker.failure is not None)
        asked = set()
        for command, shown in EXAMPLES:
            path, body = request_of(command)
            response = await client.post(path, content=body)
            assert response.status_code == 200, (path, response.text)
            assert_alike(json.loads(shown), response.json())
            asked.add(response.json().get("task"))
    assert asked == {task.name for task in checkpoint.manifest.tasks} | {None}, "None: of several tasks, and in tensors"


def test_the_programs_print_what_is_shown(tmp_path: Path) -> None:
    """Every program of the client, run as it stands at the embedded checkpoint, prints what the README shows below it."""
    assert [language for language, _, _ in PROGRAMS] == ["python", "python", "bash"]
    with polytask_serve("--runner", "torch") as url:
        command = f"{sys.executable} -m polytask predict --url {url}"
        for language, program, shown in PROGRAMS:
            here = program.replace("http://127.0.0.1:8000", url).replace("polytask predict", command)
            finished = subprocess.run(
                [sys.executable, "-c", here] if language == "python" else ["bash", "-c", here],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=True,
            )
            assert finished.stdout == shown


def test_the_map_names_every_file() -> None:
    """Each Python file of the product stands in the README's list of files, and nothing stands there that is not."""
    listed = set(re.findall(r"^\| `([\w/.]+\.py)` \|", README, re.MULTILINE))
    folders = ("model", "model_store", "training", "service", "polytask_client")
    files = {f"{folder}/{path.name}" for folder in folders for path in (ROOT / folder).glob("*.py")}
    assert listed == {file for file in files if not file.endswith("__init__.py")} | {"polytask.py"}


def test_the_recipe_can_be_read() -> None:
    """The recipe in the README is a valid one."""
    (recipe,) = re.findall(r"```toml\n(.+?)```", README, re.DOTALL)
    assert Recipe.model_validate(tomllib.loads(recipe)).tasks[0].name == "tickets"
