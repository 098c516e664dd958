"""Provenance of a version: a name for the run, recipe text, data hashes, code commit, libraries and the time of the start."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from polytask.training.data.examples import READING
from polytask.training.data.files import fingerprint
from polytask.training.recipes.schema import Recipe

_LIBRARIES = ("torch", "tokenizers", "safetensors", "numpy")


def provenance(recipe: Recipe, text: str, data_folder: Path) -> dict[str, Any]:
    """The provenance of a run that starts now, as JSON values; `text` is the recipe as it was written."""
    files = {name for task in recipe.tasks for name in (*task.train, *task.measured_files)}
    return {
        "run": uuid4().hex,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": text,
        "data": {name: fingerprint(data_folder, name) for name in sorted(files)},
        "reading": READING,
        "commit": commit(),
        "libraries": libraries(),
        "python": platform.python_version(),
        "processor": platform.machine(),
    }


def libraries() -> dict[str, str]:
    """The versions of the libraries that compute."""
    return {name: version(name) for name in _LIBRARIES}


def commit() -> str | None:
    """The commit of the code, followed by `+` if files differ from it; None outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"],  # noqa: S607 - git is found on the path
            cwd=Path(__file__).parent,
            capture_output=True,
            check=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
