"""A whole run: recipe → data → network → training → evaluation → a version in the store."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from model.encoding import InputEncoder
from model.network import Network
from model_store import DEFAULT_STORE
from model_store.load import load
from model_store.save import check_writable
from training.backbone import build_network, load_backbone
from training.baselines import score_baseline
from training.config import Recipe, read_recipe
from training.evaluate import evaluate_tasks
from training.examples import EncodedExample, TaskData, encode_examples, load_task
from training.loop import train
from training.metrics import Scores
from training.publish import Run, provenance, publish
from training.published import changed_files, validation_data
from training.records import DataError, read_all


def run_recipe(path: Path, data_folder: Path, store: Path, console: Console) -> Path:
    """Trains what the recipe says and publishes it. Returns the new version's folder.

    Raises RecipeError, DataError or StoreError before training starts, NonFiniteLossError while it runs.
    """
    recipe, text = read_recipe(path)
    check_writable(store, recipe.name)
    data = load_data(recipe, data_folder)
    backbone = load_backbone(recipe.backbone.name)
    device = choose_device()
    network = build_network(recipe, backbone, [own.task for own in data]).to(device)
    encoder = InputEncoder(backbone.tokenizer)
    examples = encode_tasks(encoder, data)
    baselines = {own.task.name: score_baseline(own.task, own.train, own.validation) for own in data}
    run = Run(recipe, data, baselines, provenance(recipe, text, data_folder))
    console.print(data_table(data, examples))
    console.print(f"{parameters_line(network)}, on {device_name(device)}", soft_wrap=True)

    def evaluate() -> None:
        console.print(scores_table(evaluate_tasks(network, encoder, data), baselines))

    train(network, examples, recipe, encoder.pad_id, console, evaluate)
    version, scores = publish(run, network, encoder, backbone, store)
    console.print(scores_table(scores, baselines))
    # Soft: the terminal may fold the line, but what copies or reads it gets it whole.
    console.print(published_line(version), soft_wrap=True, markup=False, highlight=False)
    return version


def evaluate_version(version: Path, data_folder: Path, console: Console) -> dict[str, Scores]:
    """Measures a version of the store anew, on the validation files of the recipe that made it.

    Files that are not the ones it was measured on are named on the console. Raises StoreError or DataError.
    """
    data = validation_data(version, data_folder)
    changed = changed_files(version, data_folder)
    checkpoint = load(version)
    scores = evaluate_tasks(checkpoint.network.to(choose_device()), InputEncoder(checkpoint.tokenizer), data)
    if changed:
        console.print(
            f"warning: not the data that the version was measured on when published: {', '.join(changed)}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    console.print(scores_table(scores, checkpoint.manifest.metrics, beside="when published"))
    return scores


def load_data(recipe: Recipe, folder: Path) -> list[TaskData]:
    """Every task's examples. Raises DataError naming all that is wrong, of all tasks at once, or RecipeError."""
    return read_all(partial(load_task, config, folder) for config in recipe.tasks)


def encode_tasks(encoder: InputEncoder, data: Sequence[TaskData]) -> list[list[EncodedExample]]:
    """Every task's training examples as rows. Raises DataError for a task of which truncation leaves none."""
    examples = [encode_examples(encoder, own.task, task_id, own.train) for task_id, own in enumerate(data)]
    for own, encoded in zip(data, examples, strict=True):
        if not encoded:
            raise DataError(f"{own.config.train}: no example fits into the {own.task.max_length} tokens of a row")
    return examples


def choose_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """What a person calls the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


def published_line(version: Path) -> str:
    """Where the new version is, and the command that makes it the one in use."""
    store, name, number = version.parent.parent, version.parent.name, version.name
    option = "" if store.resolve() == DEFAULT_STORE.resolve() else f" --store {shlex.quote(str(store))}"
    return f"published {version}; nothing is served before: polytask models promote {name}/{number}{option}"


def parameters_line(network: Network) -> str:
    """How many parameters there are, and how many of them learn."""
    total = sum(parameter.numel() for parameter in network.parameters())
    trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return f"{total:,} parameters, {trainable:,} of them trainable ({trainable / total:.1%})"


def data_table(data: Sequence[TaskData], examples: Sequence[Sequence[EncodedExample]]) -> Table:
    """What is about to be trained on."""
    table = _table("data", "task", "kind", "labels", "train", "validation", "median", "longest")
    table.caption = "median and longest example in tokens"
    for own, encoded in zip(data, examples, strict=True):
        lengths = sorted(example.longest for example in encoded) or [0]
        counts = (len(own.task.labels), len(encoded), len(own.validation), lengths[len(lengths) // 2], lengths[-1])
        table.add_row(own.task.name, own.task.kind, *(f"{count:,}" for count in counts))
    return table


def scores_table(scores: Mapping[str, Scores], others: Mapping[str, Scores], beside: str = "trivial baseline") -> Table:
    """Every metric of every task beside another value of it."""
    table = _table("validation", "task", "metric", "validation", beside)
    for task, own in scores.items():
        for place, (metric, value) in enumerate(own.items()):
            table.add_row("" if place else task, metric, f"{value:.4f}", f"{others[task][metric]:.4f}")
    return table


def _table(title: str, *headings: str) -> Table:
    """Narrow enough for a terminal of 80 columns."""
    return Table(*headings, title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
