"""One trial: a method, a seed and some tasks; trained, scored on validation, recorded as one line.

A trial that was stopped resumes from its last checkpoint, in `runs/quality`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from rich.console import Console
from rich.progress import track

from benchmarks.quality.methods import Method, changed
from polytask.model.encoding import InputEncoder
from polytask.model.network import Network, parameter_counts
from polytask.training.backbone import Backbone, build_network, load_backbone
from polytask.training.data.examples import TaskData
from polytask.training.evaluation.evaluate import evaluate_tasks
from polytask.training.loop.trainer import Training
from polytask.training.preparation import encode_tasks, load_data
from polytask.training.publishing.publish import calibrate
from polytask.training.recipes.schema import Recipe
from polytask.training.runs.checkpoints import latest_checkpoint, read_snapshot, write_checkpoint
from polytask.training.runs.provenance import commit

_RUNS = Path(__file__).parents[2] / "runs" / "quality"
_CHECKPOINT_S = 120

_LORA = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a trial.

    `scores`: task to metric to value on validation, the main metric first. `examples`: the number trained on.
    `backbone`, `added`, `trainable`: parameters; `added` is without heads. `seconds` of training, evaluation apart.
    """

    suite: str
    method: str
    seed: int
    tasks: tuple[str, ...]
    scores: dict[str, dict[str, float]]
    examples: int
    updates: int
    examples_by_task: dict[str, int]
    backbone: int
    added: int
    trainable: int
    seconds: float
    threads: int
    commit: str | None


def run_trial(suite: str, method: Method, recipe: Recipe, data_folder: Path, console: Console) -> Outcome:
    """Trains the recipe's tasks by the method and measures them. `recipe` has the trial's tasks and seed."""
    recipe = method.recipe(recipe)
    data = load_data(recipe, data_folder, Console(quiet=True))
    backbone = load_backbone(recipe.backbone.name)
    encoder = InputEncoder(backbone.tokenizer)
    examples = encode_tasks(encoder, data, Console(quiet=True))
    if method.epochs:
        recipe = changed(recipe, length={"examples": method.epochs * sum(map(len, examples))})
    network = _network(method, recipe, backbone, data)
    pieces = backbone.tokenizer.decode
    training = Training(network, examples, recipe, encoder.pad_id, lambda e: pieces(list(e.encodings[0].input_ids)))
    drawn = dict.fromkeys((own.task.name for own in data), 0)
    name = f"{suite} {method.name} {recipe.seed} {recipe.tasks[0].name if method.per_task else ''}".strip()
    checkpoints = _RUNS / name.replace(" ", "-")
    before = _go_on(training, checkpoints, drawn)
    started, done = time.monotonic() - before, training.examples
    steps = _steps(training, drawn, checkpoints, started)
    for _ in track(steps, name, console=console, total=training.num_examples, completed=done):
        pass
    seconds = time.monotonic() - started
    with torch.no_grad(), training.average.applied():
        calibrate(network, encoder, data)
        scores = evaluate_tasks(network, encoder, data)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return Outcome(
        suite=suite,
        method=method.name,
        seed=recipe.seed,
        tasks=tuple(drawn),
        scores=scores,
        examples=training.examples,
        updates=training.updates,
        examples_by_task=drawn,
        seconds=round(seconds, 1),
        threads=torch.get_num_threads(),
        commit=commit(),
        **_sizes(network),
    )


def _network(method: Method, recipe: Recipe, backbone: Backbone, data: list[TaskData]) -> Network:
    network = build_network(recipe, backbone, [own.task for own in data])
    if method.lora:
        for parameter in network.encoder.parameters():
            parameter.requires_grad_(False)
        inject_adapter_in_model(_LORA, network.encoder)
    return network


def _go_on(training: Training, checkpoints: Path, drawn: dict[str, int]) -> float:
    """Resumes from the last checkpoint, if any. Returns the seconds of training until then."""
    checkpoint = latest_checkpoint(checkpoints)
    if checkpoint is None:
        return 0.0
    snapshot = read_snapshot(checkpoint)
    training.restore(snapshot)
    drawn.update(snapshot.state["drawn"])
    return float(snapshot.state["seconds"])


def _steps(training: Training, drawn: dict[str, int], checkpoints: Path, started: float) -> Iterator[int]:
    """One item for every example trained on, so that the bar knows the time left. Checkpoints on the way."""
    names, kept = list(drawn), time.monotonic()
    while training.progress < 1:
        task_ids = training.step().task_ids
        for task_id in task_ids:
            drawn[names[task_id]] += 1
        yield from range(len(task_ids))
        if time.monotonic() - kept > _CHECKPOINT_S:
            kept = time.monotonic()
            snapshot = training.snapshot()
            state = {**snapshot.state, "drawn": drawn, "seconds": kept - started}
            write_checkpoint(checkpoints, training.updates, replace(snapshot, state=state))


def _sizes(network: Network) -> dict[str, int]:
    """Low-rank updates count as added."""
    counts = parameter_counts(network)
    low_rank = sum(p.numel() for name, p in network.encoder.named_parameters() if "lora_" in name)
    return {
        "backbone": counts.backbone - low_rank,
        "added": counts.conditional + low_rank,
        "trainable": counts.trainable,
    }
