"""The folder of a run: what lies in it, and whether a run may begin or go on there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polytask.model_store.durable_files import is_locked, locked, replace_text
from polytask.training.runs.checkpoints import RunError
from polytask.training.runs.event_log import read_history
from polytask.training.runs.run_reader import HISTORY, RESULTS

FINGERPRINT = "run.json"
RECIPE = "recipe.toml"


class RunFolder:
    """A run's folder: `run.json` (its facts), `recipe.toml`, `history.jsonl`, `checkpoints/` until it is finished.

    Later also `tensorboard/`, `results.json` and the report. The facts are what a run that goes on must find unchanged,
    and its provenance, which is that of its beginning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.history, self.results = path / HISTORY, path / RESULTS
        self.checkpoints, self.tensorboard = path / "checkpoints", path / "tensorboard"

    def check(self, *, resume: bool) -> None:
        """Raises RunError if no run may begin here, or with `resume` go on. Changes nothing."""
        if not self._has_run():
            if self.path.exists() and (not self.path.is_dir() or _visible(self.path)):
                raise RunError(f"{self.path}: holds something else than a run; name another folder with --run-folder")
            return
        if is_locked(self.path):
            raise RunError(
                f"{self.path}: a run is going on there; wait for its end, or name another folder with --run-folder"
            )
        if resume and self._finished():
            raise RunError(f"{self.path}: the run is finished; without --resume a new one begins")
        if not resume and not self._finished():
            remedy = "go on with it with --resume, or name another folder with --run-folder"
            raise RunError(f"{self.path}: holds a run that is not finished; {remedy}")

    @contextmanager
    def locked(
        self, fingerprint: Mapping[str, Any], provenance: Mapping[str, Any], *, resume: bool
    ) -> Iterator[dict[str, Any]]:
        """Begins or goes on, and keeps others out until the block ends or the process dies. Gives the run's provenance.

        A finished run makes room: its folder gets a number behind its name. Raises RunError if `facts` are not those
        that the run began with, or as `check`.
        """
        self.check(resume=resume)
        if self._has_run() and self._finished():
            self.path.rename(self._numbered())
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.path}: cannot be written to ({error.strerror}); name another with --run-folder"
            ) from error
        with locked(self.path):
            if not self._has_run():
                known = {**fingerprint, "provenance": provenance}
                replace_text(self.path / FINGERPRINT, json.dumps(known, indent=2, ensure_ascii=False))
            known = json.loads((self.path / FINGERPRINT).read_text(encoding="utf-8"))
            self._check_fingerprint(known, fingerprint)
            replace_text(self.path / RECIPE, known["provenance"]["recipe"])
            yield known["provenance"]

    def _check_fingerprint(self, known: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
        changed = list(_differences(known, json.loads(json.dumps(fingerprint))))
        if changed:
            lines = "\n".join(f"  {change}" for change in changed)
            remedy = "undo the changes, or begin another run with --run-folder"
            raise RunError(f"{self.path}: the run began with something else; {remedy}\n{lines}")

    def _has_run(self) -> bool:
        return (self.path / FINGERPRINT).is_file()

    def _finished(self) -> bool:
        events = read_history(self.history) if self.history.is_file() else []
        return bool(events) and events[-1]["event"] == "finish"

    def _numbered(self) -> Path:
        number = 1
        while (path := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        return path


def _visible(folder: Path) -> list[Path]:
    """What lies in the folder, but for temporary files of a run that died as it began."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _differences(known: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> Iterator[str]:
    before, now = dict(_leaves(known, "")), dict(_leaves(fingerprint, ""))
    for key in sorted(now.keys() | {key for key in before if not key.startswith("provenance.")}):
        if before.get(key) != now.get(key):
            yield f"{key}: {_shown(now, key)}, was {_shown(before, key)}"


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        yield from _leaves(entry, f"{key}.{name}" if key else str(name))
    if not isinstance(value, dict | list):
        yield key, value


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "not there"
