"""The pages in `docs/` are true: links lead somewhere, what they name exists, and the quickstart's data are as its recipe wants."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from polytask.service.config.settings import CLIENT, RENAMED, Settings, all_settings
from polytask.service.observability.metrics import Metrics
from polytask.service.single_process import assemble
from polytask.training.data.examples import load_task
from polytask.training.recipes.schema import Recipe
from tests.model.support import networks
from tests.service.support import checkpoints
from tests.service.support.doubles import real_backend
from tests.service.web.middleware.test_authentication import KEYS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
STOPS_AT_MOST = 10
LEAST_WORDS = 3


def slug(heading: str) -> str:
    """The anchor of a heading, as sites that show Markdown make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _section(page: Path, heading: str) -> str:
    """The table or text below a heading, up to the next one."""
    return page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


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
    assert named <= {setting.env_name for setting in all_settings()} | CLIENT | RENAMED.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_metrics_exist(page: Path) -> None:
    """Every series that a page names is on the page of the metrics."""
    metrics = Metrics(networks.classifiers(1), predictions=True).page().decode()
    named = set(re.findall(r"\bpolytask_(?!client)[a-z_]+\b", page.read_text(encoding="utf-8")))
    assert named <= set(re.findall(r"^# TYPE (\w+) ", metrics, re.MULTILINE))


def test_the_configuration_is_that_of_the_settings() -> None:
    """Its tables are what `docs/generate_configuration.py` makes, and every setting is in one of them."""
    generator = runpy.run_path(str(DOCS / "generate_configuration.py"))
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert generator["with_tables"](page) == page
    rows = re.findall(r"^\| `(POLYTASK_\w+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(setting.env_name for setting in all_settings())


def test_the_recipe_keys_are_those_of_the_schema() -> None:
    """The tables are what `docs/generate_recipes.py` makes, and every key of every section is in them with its meaning."""
    generator = runpy.run_path(str(DOCS / "generate_recipes.py"))
    page = (DOCS / "recipes.md").read_text(encoding="utf-8")
    assert generator["with_tables"](page) == page
    assert re.findall(r"<!-- keys: (\w+) -->", page) == list(generator["SECTIONS"])
    for section in generator["SECTIONS"].values():
        described = {name: field.description for name, field in section.model_fields.items() if field.description}
        assert section.model_fields.keys() - described.keys() <= generator["SECTIONS"].keys()
        assert not {name for name, meaning in described.items() if len(meaning.split()) < LEAST_WORDS}


def test_all_metrics_are_described() -> None:
    """The page about monitoring has every series of the service, and every outcome and reason that a request may have."""
    page = (DOCS / "monitoring.md").read_text(encoding="utf-8")
    series = Metrics(networks.classifiers(1), predictions=True).page().decode()
    names = re.findall(r"^# TYPE (polytask_\w+) ", series, re.MULTILINE)
    values = re.findall(r'(?:outcome|reason|stage|result|process)="(\w+)"', series)
    assert not {name for name in {*names, *values} if f"`{name}`" not in page}


def test_all_paths_are_described() -> None:
    """The table of paths of the API page has every path of the OpenAPI document, and no other."""
    _, app = assemble(checkpoints.in_memory(), Settings(api_keys=KEYS), real_backend())
    paths = {f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods}
    assert set(re.findall(r"`((?:GET|POST) /[^`]+)`", _section(DOCS / "api.md", "Paths"))) == paths


def test_the_files_of_the_architecture_exist() -> None:
    """Each Python file that the page names is one of the product, by its path or the end of its path."""
    folders = ("model", "model_store", "polytask", "polytask_client", "service", "training")
    files = [f"/{path.relative_to(ROOT).as_posix()}" for folder in folders for path in (ROOT / folder).rglob("*.py")]
    named = set(re.findall(r"\w[\w/]*\.py\b", (DOCS / "architecture.md").read_text(encoding="utf-8")))
    assert not {name for name in named if not any(file.endswith(f"/{name}") for file in files)}


def test_the_ways_have_few_stops() -> None:
    """A request and a training run have a drawing each, of at most ten stops with a file, numbered from one."""
    drawings = re.findall(r"```text\n(.+?)```", (DOCS / "architecture.md").read_text(encoding="utf-8"), re.DOTALL)
    ways = [re.findall(r"^ ?(\d+) ▼  (\S+\.py) ", drawing, re.MULTILINE) for drawing in drawings]
    ways = [way for way in ways if way]
    assert len(ways) == 2
    for way in ways:
        assert [int(number) for number, _ in way] == list(range(1, len(way) + 1))
        assert len(way) <= STOPS_AT_MOST
        assert all((ROOT / file).is_file() for _, file in way)


def test_what_is_decided_is_decided_there() -> None:
    """Each file of the table of decisions has a name for which the reader is to look, and each name is in a file of its row."""
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    decisions = re.findall(r"^\| .+\? \| (\[.+\)) \| (.*`.*) \|$", page, re.MULTILINE)
    assert len(decisions) == len(re.findall(r"^\| .+\? \|", page, re.MULTILINE))
    for links, names in decisions:
        files = {target: (ROOT / target).read_text(encoding="utf-8") for target in re.findall(r"\(\.\./(.+?)\)", links)}
        places = {
            name: {
                file
                for file, text in files.items()
                if re.search(rf'\b(def|class) {name}\b|"{name}"|^{name} = ', text, re.MULTILINE)
            }
            for name in re.findall(r"`(\w+)`", names)
        }
        assert all(places.values()), places
        assert set().union(*places.values()) == set(files), places


def test_the_quickstart_trains_on_what_it_writes(tmp_path: Path) -> None:
    """Its program writes records of which its recipe makes two tasks, and no wish is both learned and measured."""
    page = (DOCS / "quickstart.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n([^`]+WISHES[^`]+)```", page)
    (text,) = re.findall(r"```toml\n(.+?)```", page, re.DOTALL)
    (tmp_path / "tickets.py").write_text(program, encoding="utf-8")
    subprocess.run([sys.executable, tmp_path / "tickets.py"], check=True)
    records = [json.loads(line) for line in (tmp_path / "tickets.jsonl").read_text(encoding="utf-8").splitlines()]
    wishes = {record["text"]: record["wish"] for record in records}
    team, urgent = (load_task(config, tmp_path) for config in Recipe.model_validate(tomllib.loads(text)).tasks)
    assert team.task.labels == ("account", "billing", "delivery")
    assert urgent.task.labels == ("no", "yes")
    parts = [{wishes[example.input.text] for example in part} for part in (team.train, team.selection, team.validation)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(set(wishes.values()))
