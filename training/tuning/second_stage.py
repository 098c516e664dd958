"""Second stage of a run: its tasks are tuned one after the other, and what is better gets rows of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from polytask.model.encoding import InputEncoder
from polytask.model.network import Network
from polytask.model.unfolding import with_tuned_rows
from polytask.training.data.examples import TaskData
from polytask.training.evaluation.paired_gain import PairedGain
from polytask.training.recipes.architecture import named_layers
from polytask.training.recipes.second_stage import SecondStageConfig
from polytask.training.runs.checkpoints import Snapshot, read_snapshot, write_snapshot
from polytask.training.tuning.own_tensors import put_own_tensors
from polytask.training.tuning.tuner import TunedTask, planned_draws, tune_task

Begin = Callable[[str, int], Callable[[int], None]]
"""From what is done and its number of examples, a function that is called with the number of examples of every update."""


def tune_tasks(
    network: Network,
    encoder: InputEncoder,
    data: Iterable[TaskData],
    config: SecondStageConfig,
    console: Console,
    folder: Path | None = None,
    *,
    seed: int = 0,
    begin: Begin = lambda _doing, _total: lambda _count: None,
) -> dict[str, TunedTask]:
    """Tunes each of the tasks for the network, which stays as it is. Returns what came of it by task.

    A task that keeps no examples to choose on is left out, with a line on the console. What is finished is kept in
    `folder`, and taken from there the next time. `begin` is called for each task; what it returns may raise.
    """
    tuned = {}
    for task_data in data:
        name = task_data.task.name
        if not task_data.selection:
            console.print(f"{name} is not tuned: too few examples to keep some for a choice", soft_wrap=True)
            continue
        path = None if folder is None else folder / f"{name}.safetensors"
        if path is not None and path.is_file():
            tuned[name] = _read(path)
            continue
        advance = begin(f"tuning {name}", planned_draws(task_data, config))
        tuned[name] = tune_task(network, encoder, task_data, config, seed=seed, advance=advance)
        if path is not None:
            _write(path, tuned[name])
        outcome = "kept" if tuned[name].is_kept else "the old state stays"
        console.print(f"{name}: {tuned[name].gain}, {outcome}", soft_wrap=True, highlight=False)
    return tuned


def with_kept(network: Network, tuned: Mapping[str, TunedTask], config: SecondStageConfig) -> Network:
    """A copy of the network with those tuned states that are kept; the network itself if there are none."""
    names = [task.name for task in network.tasks]
    kept = {names.index(name): task for name, task in tuned.items() if task.is_kept}
    if not kept:
        return network
    layers = named_layers(config.layers, network.config)
    unfolded = with_tuned_rows(network, list(kept), rank=config.rank, layers=layers, products=config.products)
    for task_id, task in kept.items():
        put_own_tensors(unfolded, task_id, task.tensors)
    return unfolded


def _write(path: Path, task: TunedTask) -> None:
    state = {"gain": asdict(task.gain), "best_round": task.best_round, "rounds": task.rounds}
    write_snapshot(path, Snapshot(task.tensors, state))


def _read(path: Path) -> TunedTask:
    snapshot = read_snapshot(path)
    state = snapshot.state
    return TunedTask(PairedGain(**state["gain"]), state["best_round"], state["rounds"], snapshot.tensors)
