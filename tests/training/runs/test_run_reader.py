"""Run reader: runs that are finished, unfinished, resumed or broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.model.tasks import Kind
from polytask.training.runs.run_reader import HISTORY, RESULTS, RunFolderError, merge, read_run
from tests.training.support.guesses import task_of, write_run

TASKS = [task_of(Kind.SPAN, "first"), task_of(Kind.CLASSIFICATION, "second"), task_of(Kind.SPAN, "third")]


def _write(folder: Path, *events: dict[str, Any]) -> Path:
    (folder / HISTORY).write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return folder


def _progress(examples: int, count: int = 10, loss: float | None = 1.0) -> dict[str, Any]:
    tasks = {"mood": {"examples": count, "loss": loss}}
    return {"event": "progress", "examples": examples, "updates": 1, "seconds": 1.0, "learning_rate": 0.1} | {
        "loss": loss,
        "tasks": tasks,
    }


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    """Scores, baselines, references and diagnoses are those of the results; tasks are grouped by kind."""
    results = write_run(tmp_path, TASKS)
    run = read_run(tmp_path)
    assert {name: getattr(run, name) for name in results} == results
    assert list(run.kinds.items()) == [
        ("second", Kind.CLASSIFICATION),
        ("first", Kind.SPAN),
        ("third", Kind.SPAN),
    ]
    assert run.finish is not None
    assert (run.examples, run.seconds) == (run.finish["examples"], run.finish["seconds"])
    assert len(run.progress) == 12


def test_an_unfinished_run_has_the_scores_of_its_last_evaluation(tmp_path: Path) -> None:
    """Without results the scores are those of the last evaluation, and the length is that of the progress."""
    write_run(tmp_path, TASKS, finished=False)
    run = read_run(tmp_path)
    assert run.finish is None
    assert run.scores == run.evaluations[-1]["scores"]
    assert (run.baselines, run.diagnostics) == ({}, {})
    assert (run.examples, run.seconds) == (run.progress[-1]["examples"], run.progress[-1]["seconds"])


@pytest.mark.parametrize("content", [b"", b'{"event": "st', b"\n"])
def test_a_history_that_has_hardly_begun_is_an_empty_run(tmp_path: Path, content: bytes) -> None:
    """An empty history, or half a first line, is an empty run."""
    (tmp_path / HISTORY).write_bytes(content.strip(b"\n"))
    run = read_run(tmp_path)
    assert (run.kinds, run.examples, run.seconds, run.scores) == ({}, 0, 0.0, {})


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    """An incomplete last line is ignored, and all events before it are read."""
    _write(tmp_path, _progress(10), _progress(20))
    with (tmp_path / HISTORY).open("ab") as file:
        file.write('{"event": "progress", "examples": 3é'.encode()[:-1])
    assert [event["examples"] for event in read_run(tmp_path).progress] == [10, 20]


def test_repeated_events_replace_earlier_ones(tmp_path: Path) -> None:
    """Events after the point of a resume replace earlier ones, so that examples ascend."""
    evaluation = {"event": "evaluation", "examples": 20, "scores": {"mood": {"accuracy": 0.1}}}
    resume = {"event": "resume", "examples": 15}
    again = _progress(20, loss=2.0)
    _write(tmp_path, _progress(10), _progress(20), evaluation, _progress(30), resume, again)
    run = read_run(tmp_path)
    assert run.progress == [_progress(10), again]
    assert (run.evaluations, run.resumed, run.examples) == ([], 1, 20)
    # Without knowing where, going back shows in the examples.
    _write(tmp_path, _progress(10), _progress(20), _progress(30), {"event": "resume"}, again)
    assert read_run(tmp_path).progress == [_progress(10), again]


def test_scores_on_selection_are_kept_apart(tmp_path: Path) -> None:
    """Scores on selection are no validation scores; without results their last warnings are those of the run."""
    first = {"event": "selection", "examples": 10, "scores": {"mood": {"accuracy": 0.1}}}
    last = first | {"examples": 20, "warnings": {"mood": "says 'good'"}}
    _write(tmp_path, first, _progress(10), last)
    run = read_run(tmp_path)
    assert (run.selections, run.evaluations, run.scores) == ([first, last], [], {})
    assert run.warnings == {"mood": "says 'good'"}


def test_a_folder_without_history_is_refused(tmp_path: Path) -> None:
    """The error for a folder without history names the folder and the missing file."""
    with pytest.raises(RunFolderError, match=r"no history\.jsonl in it"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("history", "results", "named"),
    [
        ("not json\n{}\n", None, "history.jsonl: a line of it is not JSON"),
        ('{"event": "start"}\n[]\n', None, "history.jsonl:2: is no event"),
        ("", "{", "results.json: is not JSON"),
        ("", "[]", "results.json: is not the results of a run"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, history: str, results: str | None, named: str) -> None:
    """The error for a broken file names the file and the problem."""
    (tmp_path / HISTORY).write_text(history, encoding="utf-8")
    if results is not None:
        (tmp_path / RESULTS).write_text(results, encoding="utf-8")
    with pytest.raises(RunFolderError, match=named.replace(".", r"\.")):
        read_run(tmp_path)


@given(
    counts=st.lists(st.tuples(st.integers(0, 50), st.one_of(st.none(), st.floats(0, 9))), max_size=40),
    most=st.integers(1, 12),
)
def test_merging_keeps_examples_and_mean_losses(counts: list[tuple[int, float | None]], most: int) -> None:
    """Merging gives at most the requested number of intervals, with summed counts and the same mean loss."""
    counts = [(count, loss if count else None) for count, loss in counts]
    progress = [_progress(10 * index, count, loss) for index, (count, loss) in enumerate(counts, 1)]
    merged = merge(progress, most)
    assert len(merged) <= most
    assert [event["examples"] for event in merged][-1:] == [event["examples"] for event in progress][-1:]
    own = [event["tasks"]["mood"] for event in merged]
    assert sum(one["examples"] for one in own) == sum(count for count, _ in counts)
    if most == 1 and any(loss is not None for _, loss in counts):
        known = [(loss, count) for count, loss in counts if loss is not None]
        mean = sum(loss * count for loss, count in known) / sum(count for _, count in known)
        assert own[0]["loss"] == pytest.approx(mean)
        assert merged[0]["loss"] == pytest.approx(mean)
