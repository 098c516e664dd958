"""One trial: a method, a seed and some tasks; trained in memory, measured on validation, put down as one line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from rich.console import Console
from rich.progress import track

from benchmarks.quality.methods import Method, changed
from model.encoding import InputEncoder
from model.network import Network, parameter_counts
from training.backbone import Backbone, build_network, load_backbone
from training.config import Recipe
from training.evaluate import evaluate_tasks
from training.examples import TaskData
from training.loop import Training
from training.publish import calibrate, commit
from training.run import encode_tasks, load_data

_LORA = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial came to.

    `scores`: task to metric to value on validation, the main metric first. `examples`: how many were trained on.
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
    data = load_data(recipe, data_folder)
    backbone = load_backbone(recipe.backbone.name)
    encoder = InputEncoder(backbone.tokenizer)
    examples = encode_tasks(encoder, data)
    if method.epochs:
        recipe = changed(recipe, length={"examples": method.epochs * sum(map(len, examples))})
    network = _network(method, recipe, backbone, data)
    pieces = backbone.tokenizer.decode
    training = Training(network, examples, recipe, encoder.pad_id, lambda e: pieces(list(e.encodings[0].input_ids)))
    started, drawn = time.monotonic(), dict.fromkeys((own.task.name for own in data), 0)
    name = f"{suite} {method.name} {recipe.seed} {recipe.tasks[0].name if method.per_task else ''}".strip()
    for _ in track(_steps(training, drawn), name, console=console, total=recipe.length.examples):
        pass
    seconds = time.monotonic() - started
    with torch.no_grad(), training.average.in_place():
        calibrate(network, encoder, data)
        scores = evaluate_tasks(network, encoder, data)
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


def _steps(training: Training, drawn: dict[str, int]) -> Iterator[int]:
    """One item for every example trained on, so that the bar knows the time left."""
    names = list(drawn)
    while training.progress < 1:
        task_ids = training.step().task_ids
        for task_id in task_ids:
            drawn[names[task_id]] += 1
        yield from range(len(task_ids))


def _sizes(network: Network) -> dict[str, int]:
    """Low-rank updates count as added."""
    counts = parameter_counts(network)
    low_rank = sum(p.numel() for name, p in network.encoder.named_parameters() if "lora_" in name)
    return {
        "backbone": counts.backbone - low_rank,
        "added": counts.conditional + low_rank,
        "trainable": counts.trainable,
    }
