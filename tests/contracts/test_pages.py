"""The pages in `docs/` are true: links lead somewhere, settings exist, and the data of the quickstart are as its recipe wants them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from polytask.service.config.settings import CLIENT, Settings, env_name
from polytask.training.data.examples import load_task
from polytask.training.recipes.schema import Recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def slug(heading: str) -> str:
    """The anchor of a heading, as sites that show Markdown make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file of the repository and, with an anchor, to a heading in it."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_exist(page: Path) -> None:
    """Every variable that a page names is one of the service, or of the client."""
    named = set(re.findall(r"\bPOLYTASK_[A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8")))
    assert named <= {env_name(setting.name) for setting in fields(Settings)} | CLIENT


def test_the_quickstart_trains_on_what_it_writes(tmp_path: Path) -> None:
    """Its program writes records of which its recipe makes two tasks, and no wish is both learned and measured."""
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n([^`]+WISHES[^`]+)```", page)
    (text,) = re.findall(r"```toml\n(.+?)```", page, re.DOTALL)
    (tmp_path / "tickets.py").write_text(program, encoding="utf-8")
    subprocess.run([sys.executable, tmp_path / "tickets.py"], check=True)
    records = [json.loads(line) for line in (tmp_path / "tickets.jsonl").read_text(encoding="utf-8").splitlines()]
    wishes = {record["text"]: record["wish"] for record in records}
    team, urgent = (load_task(config, tmp_path) for config in Recipe.model_validate(tomllib.loads(text)).tasks)
    assert team.task.labels == ("account", "billing", "delivery")
    assert urgent.task.labels == ("no", "yes")
    learned, measured = ({wishes[example.input.text] for example in part} for part in (team.train, team.validation))
    assert len(learned) + len(measured) == len(set(wishes.values()))
    assert not learned & measured
