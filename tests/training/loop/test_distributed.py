"""Distributed training: two processes compute what one process computes with the whole batch."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from polytask.model_store.load import verify
from polytask.model_store.versions import versions
from polytask.training import pipeline
from polytask.training.loop.distributed import Group, process_group
from polytask.training.loop.interrupts import Interrupted
from polytask.training.loop.trainer import train
from polytask.training.runs.checkpoints import latest_checkpoint, read_snapshot
from polytask.training.runs.run_logger import RunLogger, Step
from tests.training.conftest import Workshop, build_workshop
from tests.training.support import toy
from tests.training.support.processes import run_together
from tests.training.support.runs import quiet_logger, start

_UPDATES = 20
_CALM = {"dropout": 0.0, "attention_dropout": 0.0}


def _losses(workshop: Workshop, sections: dict[str, Any], group: Group) -> list[list[float]]:
    """The losses of every example in the first updates, in the order of the batches."""
    recipe = toy.recipe(workshop.folder / "backbone", **({"backbone": _CALM} | sections))
    training = start(replace(workshop, recipe=recipe), recipe, group=group)
    return [list(training.step().losses) for _ in range(_UPDATES)]


def _write_losses(folder: Path, sections: dict[str, Any], out: Path) -> None:
    with process_group() as group:
        found = _losses(build_workshop(folder), sections, group)
        (out / str(group.rank)).write_text(json.dumps(found), encoding="utf-8")


@pytest.mark.parametrize(
    "sections",
    [
        {"losses": {"task_mean": True}},
        {"sampler": {"name": "mt-uncertainty", "amortised": True}, "length": {"batch_rows": 8}},
        {"length": {"batch_rows": 1}},  # batches that are smaller than the group
    ],
    ids=["mixed", "mt-uncertainty", "one row"],
)
def test_two_processes_have_the_losses_of_one(workshop: Workshop, tmp_path: Path, sections: dict[str, Any]) -> None:
    """Without dropout both processes have all losses of twenty updates, within 1e-5 of a single process's."""
    assert run_together(2, _write_losses, workshop.folder, sections, tmp_path) == [0, 0]
    found = [json.loads((tmp_path / str(rank)).read_text(encoding="utf-8")) for rank in range(2)]
    assert found[0] == found[1]
    expected = _losses(workshop, sections, Group())
    assert [len(losses) for losses in found[0]] == [len(losses) for losses in expected]
    for ours, theirs in zip(found[0], expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert expected[0][0] != pytest.approx(expected[-1][0], abs=1e-3)


def _add_up(out: Path) -> None:
    with process_group() as group:
        parameters = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(()))]
        parameters[0].grad = torch.full((2, 3), group.rank + 1.0)
        parameters[2].grad = torch.tensor(5.0) if group.is_main else None
        values = group.all_reduce_gradients(parameters, torch.tensor([group.rank, 10.0]))
        found = [None if parameter.grad is None else parameter.grad.tolist() for parameter in parameters]
        others = [group.any(not group.is_main), group.any(False), group.broadcast(group.rank), group.gather(group.rank)]
        (out / str(group.rank)).write_text(json.dumps([values.tolist(), found, others]), encoding="utf-8")


def test_gradients_are_summed(tmp_path: Path) -> None:
    """Sums reach every process, a parameter without gradients keeps none, and flags and values are exchanged."""
    assert run_together(2, _add_up, tmp_path) == [0, 0]
    for rank in range(2):
        assert json.loads((tmp_path / str(rank)).read_text(encoding="utf-8")) == [
            [1.0, 20.0],
            [[[3.0] * 3] * 2, None, 5.0],
            [True, False, 0, [0, 1]],
        ]


def _whole_run(folder: Path, recipe: Path) -> None:
    with (folder / "log").open("a", encoding="utf-8") as shown, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "write_report", lambda path: path)
        console = Console(file=shown, width=200)
        version = pipeline.run_recipe(recipe, folder.parent / "data", folder / "store", console, folder / "run")
    assert version == folder / "store" / "toy" / "1"


def test_one_of_two_processes_prints_and_publishes(tmp_path: Path) -> None:
    """A run of two processes publishes one complete version and prints everything once."""
    toy.write_backbone(tmp_path / "backbone")
    toy.write_data(tmp_path / "data", train=12, validation=4)
    (tmp_path / "here").mkdir()
    recipe = tmp_path / "toy.toml"
    length = {"examples": 48, "evaluate_every": 24, "tensorboard": False}
    recipe.write_text(toy.to_toml(toy.fields(tmp_path / "backbone", length=length)), encoding="utf-8")
    assert run_together(2, _whole_run, tmp_path / "here", recipe) == [0, 0]
    assert versions(tmp_path / "here" / "store", "toy") == [1]
    verify(tmp_path / "here" / "store" / "toy" / "1")
    shown = (tmp_path / "here" / "log").read_text(encoding="utf-8")
    assert shown.count("published") == 1
    assert shown.count("48 of 48 examples") == 1


class _AskedToStop(RunLogger):
    """A logger that sends SIGTERM in the third update."""

    def advance(self, step: Step) -> None:
        super().advance(step)
        if step.updates == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def _stop_and_go_on(folder: Path, out: Path) -> None:
    workshop = build_workshop(folder)
    recipe = toy.recipe(folder / "backbone", length={"examples": 800})
    with process_group() as group:
        training = start(workshop, recipe, group=group)
        logger = quiet_logger(training, RunLogger if group.is_main else _AskedToStop)
        with pytest.raises(Interrupted):
            train(training, logger, out, lambda: ())
        assert training.updates == 4
        checkpoint = group.broadcast(latest_checkpoint(out))
        assert checkpoint is not None
        ahead = [training.step().losses for _ in range(3)]
        again = start(workshop, recipe, group=group)
        again.restore(read_snapshot(checkpoint))
        assert [again.step().losses for _ in range(3)] == ahead


def test_a_signal_to_one_process_stops_all(workshop: Workshop, tmp_path: Path) -> None:
    """After a signal to one process all stop after the same update, and each resumes with its own dropout."""
    assert run_together(2, _stop_and_go_on, workshop.folder, tmp_path) == [0, 0]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_slices_of_all_processes_cover_everything(size: int) -> None:
    """The processes' slices are adjacent, cover all items, and differ in length by at most one; they may be empty."""
    for count in range(20):
        bounds = [Group(rank, size).slice_of(count) for rank in range(size)]
        assert [index for first, end in bounds for index in range(first, end)] == list(range(count))
        lengths = [end - first for first, end in bounds]
        assert max(lengths) - min(lengths) <= 1


def test_a_single_process_is_a_group() -> None:
    """Without torchrun the group has one process, and its operations return their arguments."""
    with process_group() as group:
        assert group == Group(0, 1)
        assert group.is_main
        assert group.broadcast("a") == "a"
        assert group.gather("a") == ["a"]
        assert [group.any(flag) for flag in (True, False)] == [True, False]
        assert group.all_reduce_gradients([], torch.ones(2)).tolist() == [1, 1]
