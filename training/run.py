"""A whole run: recipe → data → network → training → evaluation → a version in the store."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from polytask.model.encoding import InputEncoder
from polytask.model.network import Network, parameter_counts
from polytask.model_store import DEFAULT_STORE
from polytask.model_store.load import load
from polytask.model_store.save import check_writable
from polytask.training.backbone import build_network, load_backbone
from polytask.training.data.examples import EncodedExample, TaskData, balanced, encode_examples, load_task
from polytask.training.data.issues import DataError, read_all
from polytask.training.data.statistics import data_statistics
from polytask.training.data.version_data import changed_files, validation_data
from polytask.training.evaluation.baselines import score_baseline
from polytask.training.evaluation.evaluate import evaluate_tasks
from polytask.training.evaluation.metrics import Scores
from polytask.training.evaluation.score_table import scores_table
from polytask.training.loop.distributed import joined_group
from polytask.training.loop.interrupts import Interrupted
from polytask.training.publishing.publish import Run, provenance
from polytask.training.recipes.schema import Recipe, read_recipe
from polytask.training.report.write_report import write_report
from polytask.training.runs.run_folder import RunFolder
from polytask.training.stages import PreparedRun, train_and_publish, train_only


def run_recipe(
    path: Path, data_folder: Path, store: Path, console: Console, folder: Path | None = None, *, resume: bool = False
) -> Path:
    """Trains what the recipe says and publishes it. Returns the new version's folder.

    The run is kept in `folder`, without one in `runs/` under the recipe's name, and goes on there with `resume`. Of the
    processes that torchrun has started only the first shows and writes. Raises RecipeError, DataError, StoreError or
    RunError before training starts; NonFiniteLossError, RunError or Stopped while it runs.
    """
    recipe, text = read_recipe(path)
    place = RunFolder(folder or Path("runs") / recipe.name)
    with joined_group() as group:
        if not group.first:
            return train_only(_prepare(recipe, text, data_folder), place, group)
        check_writable(store, recipe.name)
        place.check(resume=resume)
        prepared = _prepare(recipe, text, data_folder)
        console.print(data_statistics(prepared.run.data, prepared.examples))
        device = device_name(choose_device())
        console.print(f"{parameters_line(prepared.network)}, on {device}; kept in {place.path}", soft_wrap=True)
        try:
            with place.held(prepared.facts(group), prepared.run.provenance, resume=resume) as origin:
                version = train_and_publish(prepared.begun(origin), place, store, console, group)
        except Interrupted as stopped:
            command = "polytask" if group.size == 1 else f"torchrun --nproc_per_node {group.size} -m polytask"
            places = {"--data": data_folder, "--store": store, "--run-folder": place.path}
            options = shlex.join([str(word) for pair in places.items() for word in pair])
            how = f"{command} train {shlex.quote(str(path))} {options} --resume"
            raise Interrupted(
                stopped.number, f"stopped by {signal.Signals(stopped.number).name}; to go on: {how}"
            ) from stopped
    # Soft: the terminal may fold the line, but what copies or reads it gets it whole.
    console.print(published_line(version), soft_wrap=True, markup=False, highlight=False)
    console.print(f"report: {write_report(place.path)[0]}", soft_wrap=True, markup=False, highlight=False)
    return version


def _prepare(recipe: Recipe, text: str, data_folder: Path) -> PreparedRun:
    data = load_data(recipe, data_folder)
    backbone = load_backbone(recipe.backbone.name)
    network = build_network(recipe, backbone, [own.task for own in data]).to(choose_device())
    encoder = InputEncoder(backbone.tokenizer)
    examples = encode_tasks(encoder, data)
    baselines = {own.task.name: score_baseline(own) for own in data}
    run = Run(recipe, data, baselines, provenance(recipe, text, data_folder))
    return PreparedRun(run, examples, backbone, network, encoder)


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
            files = ", ".join(own.config.train)
            raise DataError(f"{files}: no example fits into the {own.task.max_length} tokens of a row")
    return [balanced(encoded) if own.config.balanced else encoded for own, encoded in zip(data, examples, strict=True)]


def choose_device() -> torch.device:
    """The GPU where there is one; of several, that of this process."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def device_name(device: torch.device) -> str:
    """What a person calls the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


def published_line(version: Path) -> str:
    """Where the new version is, and the command that makes it the one in use."""
    store, name, number = version.parent.parent, version.parent.name, version.name
    option = "" if store.resolve() == DEFAULT_STORE.resolve() else f" --store {shlex.quote(str(store))}"
    return f"published {version}; nothing is served before: polytask models promote {name}/{number}{option}"


def parameters_line(network: Network) -> str:
    """How many parameters there are, what they belong to, and how many of them learn."""
    return str(parameter_counts(network))
