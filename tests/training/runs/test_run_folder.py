"""Run folder: whether a run may begin or resume."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from polytask.training.runs.checkpoints import RunError
from polytask.training.runs.event_log import EventLog
from polytask.training.runs.run_folder import FINGERPRINT, RECIPE, RunFolder

_FINGERPRINT = {
    "recipe": {"name": "toy", "length": {"examples": 10}, "tasks": [{"name": "mood"}]},
    "data": {"a.jsonl": "x"},
}
_PROVENANCE = {"recipe": "the recipe's text", "started": "once"}


def _begin(path: Path, *, resume: bool = False, **changes: Any) -> dict[str, Any]:
    """Begins or resumes a run and ends at once. Returns the provenance."""
    fingerprint, provenance = _FINGERPRINT | changes, _PROVENANCE | {"started": "again" if resume else "once"}
    with RunFolder(path).locked(fingerprint, provenance, resume=resume) as found:
        return found


def _finish(path: Path) -> None:
    history = EventLog(RunFolder(path).history)
    history.append({"event": "finish"})


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("resume", [True, False])
def test_a_run_begins_in_a_new_or_empty_folder(tmp_path: Path, there: bool, resume: bool) -> None:
    """A new folder gets fingerprint, provenance and recipe, also with --resume."""
    path = tmp_path / "runs" / "toy"
    if there:
        path.mkdir(parents=True)
    RunFolder(path).check(resume=resume)
    assert path.exists() is there
    assert _begin(path, resume=resume)["recipe"] == "the recipe's text"
    assert (path / RECIPE).read_text(encoding="utf-8") == "the recipe's text"
    assert json.loads((path / FINGERPRINT).read_text(encoding="utf-8")).items() >= _FINGERPRINT.items()


def test_an_unfinished_run_is_not_overwritten(tmp_path: Path) -> None:
    """An unfinished run is refused with both remedies, or resumes with --resume and its own provenance."""
    _begin(tmp_path / "toy")
    for refused in (lambda: RunFolder(tmp_path / "toy").check(resume=False), lambda: _begin(tmp_path / "toy")):
        with pytest.raises(RunError, match=rf"\A{tmp_path}/toy: .*go on with it with --resume, or .* --run-folder"):
            refused()
    RunFolder(tmp_path / "toy").check(resume=True)
    assert _begin(tmp_path / "toy", resume=True)["started"] == "once"


def test_a_finished_run_makes_room(tmp_path: Path) -> None:
    """A new run in a finished run's folder moves the old one to the next free number; it cannot be resumed."""
    path = tmp_path / "toy"
    for number in (1, 2):
        _begin(path)
        _finish(path)
        (path / "report.html").write_text(str(number), encoding="utf-8")
        with pytest.raises(RunError, match="the run is finished"):
            RunFolder(path).check(resume=True)
    _begin(path)
    assert not (path / "report.html").exists()
    kept = [(tmp_path / f"toy.{number}" / "report.html").read_text(encoding="utf-8") for number in (1, 2)]
    assert kept == ["1", "2"]


def test_what_differs_is_named(tmp_path: Path) -> None:
    """A run with another recipe, other data or another number of processes is refused, with each change."""
    _begin(tmp_path)
    recipe = {"name": "toy", "length": {"examples": 20}, "tasks": [{"name": "mood"}, {"name": "topics"}]}
    with pytest.raises(RunError) as caught:
        _begin(tmp_path, resume=True, recipe=recipe, data={}, processes=2)
    assert str(caught.value).splitlines()[1:] == [
        '  data.a.jsonl: not there, was "x"',
        "  processes: 2, was not there",
        "  recipe.length.examples: 20, was 10",
        '  recipe.tasks.1.name: "topics", was not there',
    ]
    assert _begin(tmp_path, resume=True)["started"] == "once"


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """A folder with other files, or a file in its place, is refused."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for name in ("folder", "file"):
        with pytest.raises(RunError, match=rf"\A{tmp_path}/{name}: holds something else than a run; .* --run-folder"):
            _begin(tmp_path / name)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """The error for a folder that cannot be made names it."""
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=rf"\A{tmp_path}/file/toy: cannot be written to"):
        _begin(tmp_path / "file" / "toy")


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    """While a run is in a folder, no other may begin or resume there."""
    with ExitStack() as stack:
        stack.enter_context(RunFolder(tmp_path).locked(_FINGERPRINT, _PROVENANCE, resume=False))
        for resume in (True, False):
            with pytest.raises(RunError, match=re.escape("a run is going on there")):
                RunFolder(tmp_path).check(resume=resume)
    RunFolder(tmp_path).check(resume=True)


def test_a_run_killed_while_it_began_begins_again(tmp_path: Path) -> None:
    """A temporary file of the fingerprint does not count as other content."""
    (tmp_path / f".{FINGERPRINT}.new").write_text("{", encoding="utf-8")
    assert _begin(tmp_path)["started"] == "once"
