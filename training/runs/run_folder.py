"""Run folder: the files of a run, and whether a run may begin or resume there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from polytask.model_store.durable_files import is_locked, replace_text
from polytask.model_store.durable_files import locked as folder_lock
from polytask.training.evaluation.simple_models import References
from polytask.training.runs.checkpoints import RunError
from polytask.training.runs.event_log import read_history
from polytask.training.runs.run_reader import HISTORY, RESULTS

FINGERPRINT = "run.json"
RECIPE = "recipe.toml"
REFERENCES = "references.json"


class RunFolder:
    """A run's folder: `run.json`, `recipe.toml`, `references.json`, `history.jsonl`, `checkpoints/` until it is finished,
    which also holds the tasks that the second stage has tuned.

    Later also `tensorboard/`, `results.json` and the report. `run.json` holds the fingerprint, which must be unchanged
    when the run is resumed, and the provenance of its beginning; `references.json` the scores of the simple models.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.history, self.results = path / HISTORY, path / RESULTS
        self.checkpoints, self.tensorboard = path / "checkpoints", path / "tensorboard"
        self.second_stage = self.checkpoints / "second_stage"

    def check(self, *, resume: bool) -> None:
        """Raises RunError if no run may begin here, or with `resume` none may resume. Changes nothing."""
        if not self._has_run():
            if self.path.exists() and (not self.path.is_dir() or _visible_entries(self.path)):
                raise RunError(f"{self.path}: holds something else than a run; name another folder with --run-folder")
            return
        if is_locked(self.path):
            raise RunError(
                f"{self.path}: a run is going on there; wait for its end, or name another folder with --run-folder"
            )
        if resume and self._is_finished():
            raise RunError(f"{self.path}: the run is finished; without --resume a new one begins")
        if not resume and not self._is_finished():
            remedy = "go on with it with --resume, or name another folder with --run-folder"
            raise RunError(f"{self.path}: holds a run that is not finished; {remedy}")

    @contextmanager
    def locked(
        self, fingerprint: Mapping[str, Any], provenance: Mapping[str, Any], *, resume: bool
    ) -> Iterator[dict[str, Any]]:
        """Begins or resumes a run and locks the folder until the block or the process ends. Gives the run's provenance.

        The folder of a finished run is renamed: it gets a number. Raises RunError if `fingerprint` is not the one that
        the run began with, or as `check`.
        """
        self.check(resume=resume)
        if self._has_run() and self._is_finished():
            self.path.rename(self._next_free_path())
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.path}: cannot be written to ({error.strerror}); name another with --run-folder"
            ) from error
        with folder_lock(self.path):
            if not self._has_run():
                recorded = {**fingerprint, "provenance": provenance}
                replace_text(self.path / FINGERPRINT, json.dumps(recorded, indent=2, ensure_ascii=False))
            recorded = json.loads((self.path / FINGERPRINT).read_text(encoding="utf-8"))
            self._check_fingerprint(recorded, fingerprint)
            replace_text(self.path / RECIPE, recorded["provenance"]["recipe"])
            yield recorded["provenance"]

    def references(self, measure: Callable[[], References]) -> References:
        """The scores of the simple models: those that the run has kept, or `measure()`, which it keeps for when it resumes."""
        path = self.path / REFERENCES
        if not path.is_file():
            replace_text(path, json.dumps(measure(), indent=2))
        return cast(References, json.loads(path.read_text(encoding="utf-8")))

    def _check_fingerprint(self, recorded: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
        changed = list(_differences(recorded, json.loads(json.dumps(fingerprint))))
        if changed:
            lines = "\n".join(f"  {change}" for change in changed)
            remedy = "undo the changes, or begin another run with --run-folder"
            raise RunError(f"{self.path}: the run began with something else; {remedy}\n{lines}")

    def _has_run(self) -> bool:
        return (self.path / FINGERPRINT).is_file()

    def _is_finished(self) -> bool:
        events = read_history(self.history) if self.history.is_file() else []
        return bool(events) and events[-1]["event"] == "finish"

    def _next_free_path(self) -> Path:
        number = 1
        while (path := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        return path


def _visible_entries(folder: Path) -> list[Path]:
    """The entries of the folder, without temporary files of a run that was killed while it began."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _differences(recorded: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> Iterator[str]:
    before, now = dict(_leaves(recorded, "")), dict(_leaves(fingerprint, ""))
    for key in sorted(now.keys() | {key for key in before if not key.startswith("provenance.")}):
        if before.get(key) != now.get(key):
            yield f"{key}: {_value_text(now, key)}, was {_value_text(before, key)}"


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        yield from _leaves(entry, f"{key}.{name}" if key else str(name))
    if not isinstance(value, dict | list):
        yield key, value


def _value_text(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "not there"
