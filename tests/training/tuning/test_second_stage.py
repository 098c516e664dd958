"""Second stage: task after task, and what is finished stays so."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from polytask.training.recipes.second_stage import SecondStageConfig
from polytask.training.tuning.second_stage import tune_tasks, with_kept
from tests.training.conftest import Workshop

CONFIG = SecondStageConfig(rank=2, learning_rate=2e-2, passes=2, batch_rows=16)


class _Stopped(Exception):
    """What a signal does."""


def test_a_stopped_stage_goes_on_where_it_was(tuning_workshop: Workshop, tmp_path: Path) -> None:
    """A task that was finished before the stop is not tuned again, and the whole comes out as without the stop."""
    network, data, quiet = tuning_workshop.network().eval(), tuning_workshop.data[:2], Console(quiet=True)
    begun: list[str] = []

    def stop(_count: int) -> None:
        if len(begun) == 2:
            raise _Stopped

    def begin(doing: str, _total: int) -> Callable[[int], None]:
        begun.append(doing)
        return stop

    whole = tune_tasks(network, tuning_workshop.encoder, data, CONFIG, quiet)
    with pytest.raises(_Stopped):
        tune_tasks(network, tuning_workshop.encoder, data, CONFIG, quiet, tmp_path, begin=begin)
    begun.clear()
    resumed = tune_tasks(network, tuning_workshop.encoder, data, CONFIG, quiet, tmp_path, begin=begin)
    assert begun == [f"tuning {data[1].task.name}"]
    for name, task in whole.items():
        assert resumed[name].gain == task.gain
        assert all(torch.equal(resumed[name].tensors[key], tensor) for key, tensor in task.tensors.items())


def test_a_task_without_examples_to_choose_on_is_left_out(tuning_workshop: Workshop) -> None:
    """A task that keeps no examples is named and not tuned, and without any tuned task the network stays."""
    network, output = tuning_workshop.network().eval(), io.StringIO()
    data = [replace(tuning_workshop.data[0], selection=())]
    tuned = tune_tasks(network, tuning_workshop.encoder, data, CONFIG, Console(file=output))
    assert tuned == {}
    assert "mood is not tuned: too few examples" in output.getvalue()
    assert with_kept(network, tuned, CONFIG) is network
