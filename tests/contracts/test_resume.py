"""Resumed training: a run that was stopped and resumed publishes, to the bit, the version of an undisturbed run."""

from __future__ import annotations

import io
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from polytask import cli
from polytask.model_store.load import verify
from polytask.training import pipeline
from polytask.training.runs.event_log import Event, read_history
from polytask.training.runs.run_logger import RunLogger, Step
from tests.training.support import toy
from tests.training.support.processes import CONTEXT

_EXAMPLES = 160


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, backbone and recipe of a toy run with dropout, and its undisturbed run."""
    folder = tmp_path_factory.mktemp("room")
    toy.write_backbone(folder / "backbone")
    toy.write_data(folder / "data", train=20, validation=6)
    length = {"examples": _EXAMPLES, "evaluate_every": 60, "checkpoint_every": 40, "tensorboard": False}
    fields = toy.fields(folder / "backbone", length=length, optimizer={"average": 0.9})
    (folder / "toy.toml").write_text(toy.to_toml(fields), encoding="utf-8")
    _run(folder, "undisturbed", resume=False)
    return folder


def _run(folder: Path, name: str, *, resume: bool) -> None:
    """A run in this process, with its own store and run folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "write_report", lambda path: path)
        pipeline.run_recipe(
            folder / "toy.toml",
            folder / "data",
            folder / f"{name}-store",
            Console(file=io.StringIO()),
            folder / name,
            resume=resume,
        )


def _disturbed(folder: Path, name: str, number: signal.Signals, update: int) -> None:
    """The command, in its own process that gets a signal during an update."""
    torch.set_num_threads(1)
    advance = RunLogger.advance

    def advance_and_die(logger: RunLogger, step: Step) -> None:
        advance(logger, step)
        if step.updates == update:
            os.kill(os.getpid(), number)

    RunLogger.advance = advance_and_die  # type: ignore[method-assign, assignment]
    where = [
        "--data",
        str(folder / "data"),
        "--store",
        str(folder / f"{name}-store"),
        "--run-folder",
        str(folder / name),
    ]
    sys.argv = ["polytask", "train", str(folder / "toy.toml"), *where]
    with (folder / f"{name}.log").open("w", buffering=1, encoding="utf-8") as shown:
        sys.stdout = sys.stderr = shown
        cli.main()


def _stop(folder: Path, name: str, number: signal.Signals, update: int) -> int | None:
    process = CONTEXT.Process(target=_disturbed, args=(folder, name, number, update))
    process.start()
    process.join()
    return process.exitcode


def _published(folder: Path, name: str) -> dict[str, Any]:
    """The tensors and metrics of the version, and the event log without times and without events of resuming."""
    version = folder / f"{name}-store" / "toy" / "1"
    tensors = {key: tensor.numpy().tobytes() for key, tensor in load_file(version / "weights.safetensors").items()}
    return tensors | {"metrics": verify(version).metrics, "history": _timeless(folder / name / "history.jsonl")}


def _timeless(path: Path) -> list[Event]:
    events = [event for event in read_history(path) if event["event"] != "resume"]
    return [{key: value for key, value in event.items() if key not in {"time", "seconds"}} for event in events]


def _updates(folder: Path) -> int:
    events = [event for event in read_history(folder / "undisturbed" / "history.jsonl") if "updates" in event]
    return int(events[-1]["updates"])


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_and_resumed_a_run_publishes_the_same(room: Path, seed: int) -> None:
    """After a SIGKILL at a random step, before or after the first checkpoint, the resumed run publishes the undisturbed version."""
    name = f"killed-{seed}"
    update = random.Random(seed).randint(1, _updates(room))  # noqa: S311 - sampling, not cryptography
    assert _stop(room, name, signal.SIGKILL, update) == -signal.SIGKILL
    assert not (room / f"{name}-store").exists()
    _run(room, name, resume=True)
    assert _published(room, name) == _published(room, "undisturbed")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_says_how_to_resume(room: Path, number: signal.Signals, code: int) -> None:
    """SIGTERM and SIGINT end the command with the shell's status and print the command that resumes, and nothing is lost."""
    name = f"stopped-{code}"
    assert _stop(room, name, number, 7) == code
    (line,) = [
        line
        for line in (room / f"{name}.log").read_text(encoding="utf-8").splitlines()
        if line.startswith("stopped by")
    ]
    options = f"--data {room}/data --store {room}/{name}-store --run-folder {room / name} --resume"
    assert line == f"stopped by {number.name}; to go on: polytask train {room}/toy.toml {options}"
    kept = sorted((room / name / "checkpoints").iterdir())
    assert int(kept[-1].stem) >= 7
    _run(room, name, resume=True)
    assert _published(room, name) == _published(room, "undisturbed")
