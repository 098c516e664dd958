"""Constraints: `make constraints` writes the newest versions that fit together into constraints.txt, for every extra at once."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = ROOT / "constraints.txt"
NOT_PINNED = ("polytask", "cuda-", "nvidia-", "triton")
"""Our own distributions, and what a build of torch for CUDA pins itself."""


def main() -> None:
    """Resolves all extras, twice where the two builds of ONNX Runtime, which must agree, have different newest versions."""
    versions = newest()
    if versions["onnxruntime"] != versions["onnxruntime-gpu"]:
        versions = newest(
            *(f"onnxruntime{build}<={versions[f'onnxruntime{other}']}" for build, other in (("", "-gpu"), ("-gpu", "")))
        )
    pins = [f"{name}=={version}" for name, version in versions.items() if not name.lower().startswith(NOT_PINNED)]
    comment = FILE.read_text(encoding="utf-8").splitlines()[0]
    FILE.write_text("\n".join([comment, *sorted(pins, key=str.lower)]) + "\n", encoding="utf-8")


def newest(*bounds: str) -> dict[str, str]:
    """The versions that pip would install for all extras within the bounds, whatever is installed here."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    wanted = [f"{ROOT}[{','.join(extras)}]", str(ROOT / "polytask_client"), *bounds]
    report = json.loads(subprocess.run([*pip, *wanted], stdout=subprocess.PIPE, check=True).stdout)
    return {each["metadata"]["name"]: each["metadata"]["version"].split("+")[0] for each in report["install"]}


if __name__ == "__main__":
    main()
