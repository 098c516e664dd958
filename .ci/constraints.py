"""Constraints: `make constraints` writes the newest versions that fit together into constraints.txt, for every extra at once."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
FILE = ROOT / "constraints.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOT_PINNED = ("polytask", "cuda-", "nvidia-", "triton")
"""Our own distributions, and what a build of torch for CUDA pins itself."""


def main() -> None:
    """Resolves all extras, again with bounds as long as something does not fit; a minute each time."""
    bounds: list[str] = []
    while more := misfits(found := newest(bounds)):
        print(f"again, with {' '.join(more)}")
        bounds += more
    pins = [f"{each['name']}=={each['version'].split('+')[0]}" for each in found]
    pins = [pin for pin in pins if not pin.lower().startswith(NOT_PINNED)]
    comment = FILE.read_text(encoding="utf-8").splitlines()[0]
    FILE.write_text("\n".join([comment, *sorted(pins, key=str.lower)]) + "\n", encoding="utf-8")


def newest(bounds: list[str]) -> list[dict[str, str]]:
    """The metadata of what pip would install for all extras within the bounds, whatever is installed here."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    wanted = [f"{ROOT}[{','.join(PROJECT['optional-dependencies'])}]", str(ROOT / "polytask_client"), *bounds]
    report = json.loads(subprocess.run([*pip, *wanted], stdout=subprocess.PIPE, check=True).stdout)
    return [each["metadata"] for each in report["install"]]


def misfits(found: list[dict[str, str]]) -> list[str]:
    """Bounds that leave out what needs a newer Python than we do, and make both builds of ONNX Runtime one version."""
    lowest = f"{PROJECT['requires-python'].removeprefix('>=')}.0"
    bounds = [
        f"{each['name']}<{each['version'].split('.')[0]}"
        for each in found
        if lowest not in SpecifierSet(each.get("requires_python", ""))
    ]
    builds = {each["name"]: each["version"] for each in found if each["name"] in {"onnxruntime", "onnxruntime-gpu"}}
    if len({*builds.values()}) > 1:
        bounds += [f"{name}<={version}" for name in builds for version in builds.values()]
    return bounds


if __name__ == "__main__":
    main()
