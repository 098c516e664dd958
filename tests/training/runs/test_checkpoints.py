"""Checkpoints: a run that was killed resumes exactly, with every sampler and option."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from polytask.training.evaluation.evaluate import evaluate_tasks
from polytask.training.loop.trainer import Training, train
from polytask.training.recipes.schema import Recipe
from polytask.training.runs import run_logger as logger
from polytask.training.runs.checkpoints import (
    RunError,
    Snapshot,
    latest_checkpoint,
    random_states,
    read_snapshot,
    restore_random_states,
    write_checkpoint,
    write_snapshot,
)
from polytask.training.runs.event_log import Event, EventLog, read_history
from polytask.training.runs.run_logger import RunLogger, Step
from tests.training.conftest import Workshop
from tests.training.support import toy
from tests.training.support.runs import quiet_logger, start

_CPU = torch.device("cpu")


class Killed(BaseException):
    """Stands for a SIGKILL: nothing catches it, and nothing is written after it."""


def _run(workshop: Workshop, recipe: Recipe, folder: Path, dies_after: int | None = None) -> Training:
    """Begins a run, or resumes the one that was killed in the folder; kills it after that many updates."""

    class Mortal(RunLogger):
        def advance(self, step: Step) -> None:
            super().advance(step)
            if step.updates == dies_after:
                raise Killed

    training = start(workshop, recipe)
    checkpoint = latest_checkpoint(folder / "checkpoints")
    snapshot = None if checkpoint is None else read_snapshot(checkpoint)
    history = EventLog(folder / "history.jsonl", 0 if snapshot is None else snapshot.state["journal"]["history"])
    own = quiet_logger(training, Mortal, history)
    if snapshot is None:
        own.start("toy", {})
    else:
        training.restore(snapshot)
        own.restore(snapshot.state["journal"])
        own.resume()

    def evaluate() -> Iterator[None]:
        yield
        own.log_evaluation(evaluate_tasks(training.network, workshop.encoder, workshop.data))

    def select() -> Iterator[None]:
        yield
        training.best.add(training.network.heads.sentence.bias.sum().item(), training.examples)

    train(training, own, folder / "checkpoints", evaluate, select)
    return training


def _everything(training: Training) -> dict[str, Any]:
    """All tensors and values of a run, for comparison to the bit."""
    snapshot = training.snapshot()
    frozen = {f"all.{name}": tensor for name, tensor in training.network.state_dict().items()}
    tensors = {name: _bits(tensor) for name, tensor in (snapshot.tensors | frozen).items()}
    return tensors | {key: value for key, value in snapshot.state.items() if key != "seconds"}


def _bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def _timeless(path: Path) -> list[Event]:
    """The history without its times and without `resume` events."""
    events = [event for event in read_history(path) if event["event"] != "resume"]
    return [{key: value for key, value in event.items() if key not in {"time", "seconds"}} for event in events]


_RUNS: dict[str, dict[str, Any]] = {
    "temperature, with an average": {
        "sampler": {"name": "temperature", "temperature": 2.0},
        "optimizer": {"average": 0.9},
    },
    "annealed, in bf16": {"sampler": {"name": "annealed"}, "length": {"bf16": True}},
    "mt-uncertainty": {"sampler": {"name": "mt-uncertainty"}},
    "mt-uncertainty, amortised": {"sampler": {"name": "mt-uncertainty", "amortised": True, "horizon": 2}},
    "task-uncertainty, with a best state": {
        "sampler": {"name": "task-uncertainty"},
        "length": {"patience": 9, "minutes": 600},
    },
}


@pytest.mark.parametrize("sections", _RUNS.values(), ids=_RUNS)
def test_killed_at_random_steps_a_run_ends_as_if_undisturbed(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any]
) -> None:
    """A run killed and resumed ten times, with dropout, ends with the same bits and the same history."""
    monkeypatch.setattr(
        logger, "_NUM_PROGRESS_EVENTS", 4
    )  # intervals that are longer than from one checkpoint to the next
    length = {"examples": 150, "evaluate_every": 70, "checkpoint_every": 30} | sections.get("length", {})
    recipe = toy.recipe(workshop.folder / "backbone", **(sections | {"length": length}))
    (tmp_path / "undisturbed").mkdir()
    (tmp_path / "killed").mkdir()
    expected = _run(workshop, recipe, tmp_path / "undisturbed")
    generator = random.Random(7)  # noqa: S311 - sampling, not cryptography
    moments = sorted(generator.sample(range(1, expected.updates + 1), 10))
    for moment in moments:
        with pytest.raises(Killed):
            _run(workshop, recipe, tmp_path / "killed", moment)
        torch.rand(moment)  # another process would be in another state
    assert _everything(_run(workshop, recipe, tmp_path / "killed")) == _everything(expected)
    history = _timeless(tmp_path / "killed" / "history.jsonl")
    assert history == _timeless(tmp_path / "undisturbed" / "history.jsonl")
    assert [event["event"] for event in history].count("evaluation") == 2


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Tensors of several types and JSON values of every kind are read back to the bit."""
    tensors = {"a.b": torch.randn(3, 4), "bytes": torch.arange(5, dtype=torch.uint8), "scalar": torch.tensor(2.5)}
    state: dict[str, Any] = {
        "numbers": [1, 0.1 + 0.2, float("inf"), -(2**70)],
        "nothing": None,
        "text": "ä\u0000",
        "deep": {"": [[]]},
    }
    write_snapshot(tmp_path / "new" / "one", Snapshot(tensors, state))
    found = read_snapshot(tmp_path / "new" / "one")
    assert found.state == state
    assert {name: _bits(tensor) for name, tensor in found.tensors.items()} == {n: _bits(t) for n, t in tensors.items()}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["one"]


def test_the_newest_complete_checkpoint_is_the_latest(tmp_path: Path) -> None:
    """Two checkpoints are kept; unfinished files and saved failed weights do not count as checkpoints."""
    assert latest_checkpoint(tmp_path / "nowhere") is None
    for updates in (5, 90, 1000):
        write_checkpoint(tmp_path, updates, Snapshot({}, {"updates": updates}))
    (tmp_path / ".000002000.safetensors.new").write_bytes(b"torn")
    write_snapshot(tmp_path / "failed.safetensors", Snapshot({}, {}))
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert read_snapshot(found).state == {"updates": 1000}
    assert len(list(tmp_path.glob("0*"))) == 2


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    """A broken file, or one with other content, is an error with the remedy."""
    path = tmp_path / "000000001.safetensors"
    path.write_bytes(b"no tensors")
    with pytest.raises(RunError, match=rf"\A{path}: no checkpoint of a run .*remove it to go on from the one before"):
        read_snapshot(path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(RunError, match="no checkpoint of a run"):
        read_snapshot(path)


def test_a_checkpoint_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """If a checkpoint cannot be written, the error is the system's and names the file."""
    (tmp_path / ".000000003.safetensors.new").mkdir()
    with pytest.raises(OSError, match="directory") as raised:
        write_checkpoint(tmp_path, 3, Snapshot({}, {}))
    assert raised.value.filename == str(tmp_path / "000000003.safetensors")


def test_a_checkpoint_of_another_network_is_refused(workshop: Workshop) -> None:
    """Resuming with other trainable parameters, or with a new average, is an error."""
    other = toy.recipe(workshop.folder / "backbone", optimizer={"average": 0.5})
    snapshot = start(workshop, workshop.recipe).snapshot()
    with pytest.raises(RunError, match="another network"):
        start(workshop, other).restore(snapshot)
    network = workshop.network()
    network.heads.requires_grad_(requires_grad=False)
    with pytest.raises(RunError, match="another network"):
        start(workshop, workshop.recipe, network).restore(snapshot)


def test_random_generators_are_restored() -> None:
    """Restored generators of Python, numpy and torch repeat the numbers that they gave."""

    def draw() -> list[float]:
        normal = np.random.standard_normal()  # noqa: NPY002 - the global generator is what is tested
        return [random.random(), random.gauss(), float(normal), float(torch.rand(()))]  # noqa: S311 - as above

    draw()  # gauss keeps its second number
    states = random_states(_CPU)
    first = draw()
    draw()
    restore_random_states(states, _CPU)
    assert draw() == first
