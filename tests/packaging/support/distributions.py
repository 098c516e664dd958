"""Wheels, virtual environments and resolutions of the two distributions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
CONSTRAINTS = ROOT / "constraints.txt"


def run(*command: str | Path, cwd: Path | None = None, path: Path | None = None) -> str:
    """What a command prints, which must succeed. `path` comes first on its PATH."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    if path:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def copy_sources(target: Path) -> None:
    """Copies the files of the repository, without those that git ignores, as a fresh clone has them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, copy = ROOT / name, target / name
        if source.is_symlink() or source.is_file():  # a file that was deleted is still listed
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)


def build(sources: Path, target: Path) -> Path:
    """The wheel of a project, built from its source distribution, so that both are tried."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, sources)
    (wheel,) = target.glob("*.whl")
    return wheel


def names(wheel: Path) -> list[str]:
    """The files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return [name for name in archive.namelist() if not name.endswith("/")]


def environment(folder: Path, *wheels: Path) -> Path:
    """The scripts of a new environment that holds the wheels, over this environment's other packages."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    (site,) = folder.glob("lib/python*/site-packages")
    # A path beneath is searched last, and its own .pth files are not read: the editable install stays out.
    beneath = [path for path in sys.path if path.endswith("site-packages")]
    (site / "beneath.pth").write_text("\n".join(beneath) + "\n", encoding="utf-8")
    install(folder / "bin" / "python", "--no-deps", "--no-index", "--ignore-installed", *wheels)
    return folder / "bin"


def install(python: Path, *arguments: str | Path) -> None:
    """Installs into the environment of an interpreter, which needs no pip of its own."""
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", *arguments)


@dataclass(frozen=True)
class Resolution:
    """What pip would install: the requirements of each distribution, its version, and the Python that it needs."""

    requirements: Mapping[str, list[Requirement]]
    versions: Mapping[str, str]
    pythons: Mapping[str, SpecifierSet]

    def needed(self, name: str, extras: Iterable[str] = (), *, but: str = "") -> set[str]:
        """The distributions that one with extras needs, itself included; `but` counts, what only it needs does not."""
        seen: set[tuple[str, str]] = set()
        waiting = [(canonicalize_name(name), extra) for extra in ("", *extras)]
        while waiting:
            current, extra = waiting.pop()
            if (current, extra) in seen:
                continue
            seen.add((current, extra))
            for requirement in self.requirements[current] if current != but else ():
                if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                    waiting += [
                        (canonicalize_name(requirement.name), wanted) for wanted in ("", *sorted(requirement.extras))
                    ]
        return {current for current, _ in seen}


def resolve(folder: Path, *wanted: str | Path) -> Resolution:
    """What pip would install from its index under constraints.txt, whatever is installed here."""
    report = folder / "report.json"
    options = ["--dry-run", "--ignore-installed", "--constraint", str(CONSTRAINTS), "--report", str(report)]
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *options, *wanted)
    found: list[dict[str, Any]] = [entry["metadata"] for entry in json.loads(report.read_text("utf-8"))["install"]]
    return Resolution(
        {canonicalize_name(each["name"]): [*map(Requirement, each.get("requires_dist", []))] for each in found},
        {canonicalize_name(each["name"]): each["version"] for each in found},
        {canonicalize_name(each["name"]): SpecifierSet(each.get("requires_python", "")) for each in found},
    )


def constrained() -> dict[str, str]:
    """The version of each distribution in constraints.txt."""
    lines = re.findall(r"^([\w.-]+)==(\S+)$", CONSTRAINTS.read_text("utf-8"), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in lines}
