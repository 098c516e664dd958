"""The wheels: what is in them, and that they work beside modules of the same short names."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.packaging.conftest import Wheels
from tests.packaging.support.distributions import ROOT, names, run

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
VERSION = PROJECT["version"]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with a user's own `model`, `model_store`, `service` and `training`."""
    for name in ("model", "model_store", "service", "training"):
        (tmp_path / f"{name}.py").write_text(f"mine = {name!r}\n", encoding="utf-8")
    return tmp_path


def test_each_wheel_adds_one_import_name(wheels: Wheels) -> None:
    """A wheel holds its package and the metadata of its distribution, nothing else."""
    for wheel, name in ((wheels.polytask, "polytask"), (wheels.client, "polytask_client")):
        assert {file.split("/")[0] for file in names(wheel)} == {name, f"{name}-{VERSION}.dist-info"}


@pytest.mark.parametrize("folder", ["model", "model_store", "service", "training"])
def test_the_wheel_holds_every_file_of_a_package(folder: str, wheels: Wheels) -> None:
    """Modules, the demo checkpoint, the playground, recipes and templates are in the wheel."""
    assert _files(ROOT / folder) <= {name.removeprefix("polytask/") for name in names(wheels.polytask)}


def test_the_wheel_is_typed_and_knows_the_current_version(wheels: Wheels) -> None:
    """The type marker and the name of the demo checkpoint's current version are in the wheel."""
    assert {"polytask/py.typed", "polytask/model_store/checkpoints/demo/current.json"} <= {*names(wheels.polytask)}


def test_the_client_wheel_holds_every_file_of_the_client(wheels: Wheels) -> None:
    """Modules, type marker and license are in the wheel; its project file and README are not."""
    built = {name.removeprefix("polytask_client/") for name in names(wheels.client)}
    assert {path.name for path in (ROOT / "polytask_client").glob("*.py")} | {"py.typed"} <= built
    assert any(name.endswith("licenses/LICENSE") for name in built)
    assert not built & {"pyproject.toml", "README.md"}


def test_the_extra_client_requires_the_client_of_the_same_release() -> None:
    """Both distributions have one version, and `polytask[client]` pins it."""
    client = tomllib.loads((ROOT / "polytask_client" / "pyproject.toml").read_text("utf-8"))["project"]
    assert client["version"] == VERSION
    assert PROJECT["optional-dependencies"]["client"] == [f"polytask-client=={VERSION}"]


@pytest.mark.parametrize(
    "command",
    [
        ["polytask"],
        ["python", "-m", "polytask"],
        ["torchrun", "--nproc_per_node", "1", "--no-python", "polytask"],
        ["torchrun", "--nproc_per_node", "1", "-m", "polytask"],
    ],
    ids=["script", "module", "torchrun-script", "torchrun-module"],
)
def test_the_command_line_works_beside_modules_of_the_same_names(
    command: list[str], scripts: Path, foreign: Path
) -> None:
    """In a folder with a `model.py` and a `service.py` of the user's, `polytask models list` shows the demo checkpoint."""
    if command[0] == "torchrun":
        command = ["python", "-m", "torch.distributed.run", *command[1:]]
    said = run(scripts / command[0], *command[1:], "models", "list", cwd=foreign, path=scripts)
    assert "demo" in said
    assert "intent" in said


def test_an_installed_command_line_knows_its_version(scripts: Path, foreign: Path) -> None:
    """`polytask --version` is that of pyproject.toml."""
    assert run(scripts / "polytask", "--version", cwd=foreign).split()[:2] == ["polytask", VERSION]


def test_short_names_are_the_users(scripts: Path, foreign: Path) -> None:
    """`import model` finds the user's module, `import polytask.model` the one of the wheel."""
    code = (
        "import model, service, training, polytask.model_store as ours; print(model.mine, service.mine, ours.__file__)"
    )
    mine, mine_too, file = run(scripts / "python", "-c", code, cwd=foreign).split()
    assert (mine, mine_too) == ("model", "service")
    assert Path(file).is_relative_to(scripts.parent)


def _files(folder: Path) -> set[str]:
    """Files that belong in the wheel, relative to the repository."""
    files = [
        path.relative_to(ROOT) for path in folder.rglob("*") if path.is_file() and path.suffix not in {".md", ".pyc"}
    ]
    checkpoints = Path("model_store", "checkpoints")
    return {
        str(file)
        for file in files
        if not file.is_relative_to(checkpoints) or file.is_relative_to(checkpoints / "demo" / "1")
        if "exports" not in file.parts
    }
