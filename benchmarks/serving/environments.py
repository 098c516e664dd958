"""Virtual environments and models of the rivals, created on first use and kept in a folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polytask.model.tasks import Task
from polytask.model_store.backbones import locate_backbone

RIVALS = Path(__file__).parent / "rivals"
DEFAULT_FOLDER = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "polytask-benchmarks"

_BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
_MAKER = "fastapi"
_DONE = "made-from"
_LINES = 3


class Unavailable(Exception):
    """A system that cannot be installed or started here. The message is the end of its output."""


@dataclass(frozen=True, slots=True)
class Environments:
    """A folder with the virtual environment of each rival and the models that all of them serve."""

    folder: Path

    def python(self, name: str) -> Path:
        """The interpreter of an environment with the requirements in `rivals/NAME.txt`. Raises Unavailable."""
        requirements = RIVALS / f"{name}.txt"
        home, made_from = self.folder / name, _fingerprint(requirements.read_bytes())
        python = home / "bin" / "python"
        if not _is_made(home, made_from):
            shutil.rmtree(home, ignore_errors=True)
            print(f"making {home}: this takes minutes, once", file=sys.stderr)
            _checked([sys.executable, "-m", "venv", str(home)])
            _checked([str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)])
            (home / _DONE).write_text(made_from, encoding="ascii")
        return python

    def models(self, tasks: Sequence[Task]) -> Path:
        """The folder with a classifier of the backbone for each task. Raises Unavailable."""
        wanted = json.dumps(
            [
                {"name": task.name, "num_labels": max(2, task.num_outputs), "max_length": task.max_length}
                for task in tasks
            ]
        )
        made_from = _fingerprint(wanted.encode() + (RIVALS / "models.py").read_bytes())
        home = self.folder / "models"
        if not _is_made(home, made_from):
            shutil.rmtree(home, ignore_errors=True)
            maker = [str(self.python(_MAKER)), "-m", "benchmarks.serving.rivals.models"]
            print(f"making the rivals' models in {home}, once", file=sys.stderr)
            _checked([*maker, str(locate_backbone(_BACKBONE)), str(home), wanted])
            (home / _DONE).write_text(made_from, encoding="ascii")
        return home


def _is_made(home: Path, made_from: str) -> bool:
    done = home / _DONE
    return done.is_file() and done.read_text(encoding="ascii") == made_from


def _fingerprint(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _checked(command: Sequence[str]) -> None:
    """Runs a command. Raises Unavailable with the end of its output."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise Unavailable(last_lines(result.stderr or result.stdout))


def last_lines(text: str) -> str:
    """The last lines that are not empty."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-_LINES:])
