"""The examples of the README and of `docs/` are true: sent or run as they stand, they give what the pages show."""

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
from polytask.service.config.task_policies import parse_task_policies
from polytask.service.single_process import assemble
from polytask.training.recipes.schema import Recipe
from tests.service.support.processes import polytask_serve
from tests.service.support.serving import until

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "polytask_client" / "README.md", *(ROOT / "docs").glob("*.md")]
}
README = PAGES["README.md"]
SCORE_TOLERANCE = 0.005


def found(pattern: str) -> dict[str, list[Any]]:
    """What the pattern finds on each page where it finds anything."""
    matches = {name: re.findall(pattern, page, re.DOTALL) for name, page in PAGES.items()}
    return {name: matches[name] for name in sorted(matches) if matches[name]}


EXAMPLES = found(r"```bash\ncurl (.+?)\n```\n\n```json\n(.+?)\n```")
PROGRAMS = found(r"```(python|bash)\n([^`]+?)```\n\n```text\n(.+?)```")
RECIPES = found(r"```toml\n(.+?)```")


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
    """Every curl line, sent as it stands to the embedded checkpoint, gets the answer that the page prints below it."""
    assert {page: len(examples) for page, examples in EXAMPLES.items()} == {"README.md": 2, "docs/api.md": 13}
    checkpoint = load(resolve(DEFAULT_STORE, "demo"))
    worker, app = assemble(checkpoint, Settings(), TorchBackend(checkpoint.network))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        await until(lambda: worker.ready or worker.failure is not None)
        asked = set()
        for command, shown in [example for examples in EXAMPLES.values() for example in examples]:
            path, body = request_of(command)
            response = await client.post(path, content=body)
            assert response.status_code == 200, (path, response.text)
            assert_alike(json.loads(shown), response.json())
            asked.add(response.json().get("task"))
    assert asked == {task.name for task in checkpoint.manifest.tasks} | {None}, "None: of several tasks, and in tensors"


def test_the_programs_print_what_is_shown(tmp_path: Path) -> None:
    """Every program of the client, run as it stands at the embedded checkpoint, prints what the page shows below it."""
    assert {page: [language for language, _, _ in programs] for page, programs in PROGRAMS.items()} == {
        "README.md": ["python"],
        "docs/client.md": ["python", "python", "bash"],
        "docs/quickstart.md": ["python"],
        "polytask_client/README.md": ["python"],
    }
    with polytask_serve("--runner", "torch") as url:
        command = f"{sys.executable} -m polytask predict --url {url}"
        for language, program, shown in [program for programs in PROGRAMS.values() for program in programs]:
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


def test_the_recipes_can_be_read() -> None:
    """Every recipe on a page is a valid one, and a section by itself is one of the page's first recipe."""
    tasks: dict[str, list[str]] = {}
    for page, texts in RECIPES.items():
        first, *others = map(tomllib.loads, texts)
        recipes = [first, *(first | other for other in others)]
        read = [Recipe.model_validate(recipe) for recipe in recipes]
        tasks[page] = list(dict.fromkeys(task.name for recipe in read for task in recipe.tasks))
    assert tasks == {
        "README.md": ["tickets"],
        "docs/quickstart.md": ["team", "urgent"],
        "docs/training.md": ["tickets"],
    }


def test_the_policies_can_be_read() -> None:
    """Every example of task policies is a valid one."""
    policies = [text for page in PAGES.values() for text in re.findall(r'\{"\w+": \{"(?:weight|mix)".*\}\}', page)]
    assert [list(parse_task_policies(text)) for text in policies] == [["intent"], ["answer"], ["intent"]]


def test_the_readme_is_short() -> None:
    """What a newcomer reads first has 200 lines at most; the rest is in `docs/`."""
    assert len(README.splitlines()) <= 200
