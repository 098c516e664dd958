"""Tuning of a published version: some of its tasks are tuned alone, and the next version differs from it in nothing else."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from polytask.model.encoding import InputEncoder
from polytask.model.network import Network
from polytask.model_store.load import Checkpoint, load
from polytask.model_store.manifest import Golden
from polytask.model_store.save import NewVersion, check_writable, save
from polytask.training.data.examples import READING, TaskData
from polytask.training.data.files import fingerprint
from polytask.training.data.version_data import tuning_data
from polytask.training.evaluation.evaluate import answer_inputs, score_with_text
from polytask.training.evaluation.metrics import Scores
from polytask.training.evaluation.score_table import scores_table
from polytask.training.publishing.calibration import calibrate_task
from polytask.training.publishing.tuned_card import tuned_card
from polytask.training.recipes.schema import Recipe
from polytask.training.recipes.second_stage import SecondStageConfig
from polytask.training.recipes.validation_errors import did_you_mean
from polytask.training.runs.progress import ProgressBar
from polytask.training.runs.provenance import commit, libraries
from polytask.training.tuning.second_stage import tune_tasks, with_kept
from polytask.training.tuning.tuner import TunedTask

_PRECISION = torch.float16


class UnknownTask(Exception):
    """A task that the version does not have; the message names those that it has."""


def tune_version(version: Path, names: Sequence[str], data_folder: Path, store: Path, console: Console) -> Path | None:
    """Tunes tasks of the version in folder `version` and publishes the next version of its name in `store`.

    Returns the new version's folder, or None if no task got better; then nothing is published. The settings are the
    `[second_stage]` of the version's recipe, else the defaults. Every other task of the new version answers the same to the
    bit. Raises UnknownTask, StoreError or DataError.
    """
    checkpoint = load(version)
    manifest, network, encoder = checkpoint.manifest, checkpoint.network, InputEncoder(checkpoint.tokenizer)
    known = [task.name for task in manifest.tasks]
    for name in names:
        if name not in known:
            has = f"{manifest.name}/{manifest.version} has {', '.join(known)}"
            raise UnknownTask(f"there is no task {name!r}{did_you_mean(name, known)}; {has}")
    check_writable(store, manifest.name)
    data = tuning_data(version, data_folder, names)
    if manifest.provenance.get("reading") != READING:
        text = "warning: the version was trained on the examples that now compare its tasks, so these look better than they are"
        console.print(text, soft_wrap=True, highlight=False)
    config = Recipe.model_validate(tomllib.loads(manifest.provenance["recipe"])).second_stage or SecondStageConfig()
    with ExitStack() as stack:

        def begin(doing: str, total: int) -> Callable[[int], None]:
            stack.close()
            return stack.enter_context(ProgressBar(console, doing, total, "examples")).advance

        tuned = tune_tasks(network, encoder, data, config, console, begin=begin)
    kept = [each for each in data if each.task.name in tuned and tuned[each.task.name].is_kept]
    if not kept:
        return None
    network = with_kept(network, tuned, config)
    scores = _publishable(network, encoder, kept)
    console.print(scores_table(scores, {f"{manifest.name}/{manifest.version}": manifest.metrics}))
    return save(store, manifest.name, _new_version(checkpoint, network, encoder, scores, tuned, config, data_folder))


def _publishable(network: Network, encoder: InputEncoder, kept: Sequence[TaskData]) -> dict[str, Scores]:
    """Calibrates the tasks that were tuned, in the precision of storage, and returns their metrics on validation."""
    ids = {task.name: task_id for task_id, task in enumerate(network.tasks)}
    scores = {}
    for task_data in kept:
        task_id = ids[task_data.task.name]
        calibrate_task(network, encoder, task_id, task_data, _PRECISION)
        calibrated = replace(task_data, task=network.tasks[task_id])
        answers = answer_inputs(network, encoder, task_id, [example.input for example in task_data.validation])
        scores[task_data.task.name] = score_with_text(network, encoder, task_id, calibrated, answers)
    return scores


def _new_version(
    checkpoint: Checkpoint,
    network: Network,
    encoder: InputEncoder,
    scores: Mapping[str, Scores],
    tuned: Mapping[str, TunedTask],
    config: SecondStageConfig,
    data_folder: Path,
) -> NewVersion:
    """The version as it was, but for the network and what belongs to the tasks in `scores`."""
    manifest, origin = checkpoint.manifest, f"{checkpoint.manifest.name}/{checkpoint.manifest.version}"
    gains = {name: task.gain for name, task in tuned.items()}
    return NewVersion(
        network=network,
        tokenizer_json=checkpoint.tokenizer.to_str(),
        base=manifest.base,
        precision=_PRECISION,
        metrics={**manifest.metrics, **scores},
        baselines=manifest.baselines,
        references=manifest.references,
        goldens=tuple(
            _answered(network, encoder, golden) if golden.task in scores else golden for golden in manifest.goldens
        ),
        provenance=_provenance(manifest.provenance, origin, tuned, config, data_folder),
        card=tuned_card(checkpoint.card, scores, gains, origin),
    )


def _answered(network: Network, encoder: InputEncoder, golden: Golden) -> Golden:
    task_id = [task.name for task in network.tasks].index(golden.task)
    (answer,) = answer_inputs(network, encoder, task_id, [golden.input])
    return replace(golden, answer=asdict(answer))


def _provenance(
    before: Mapping[str, Any], origin: str, tuned: Mapping[str, TunedTask], config: SecondStageConfig, folder: Path
) -> dict[str, Any]:
    """The origin's provenance, with the data of the tuned tasks as they are now, and a line on each tuning under `tuned`."""
    recipe = Recipe.model_validate(tomllib.loads(before["recipe"]))
    files = {file for task in recipe.tasks if task.name in tuned for file in (*task.train, *task.measured_files)}
    hashes = {file: fingerprint(folder, file) for file in sorted(files)}
    tuning = {
        "from": origin,
        "tasks": {name: {**asdict(task.gain), "kept": task.is_kept} for name, task in tuned.items()},
        "second_stage": config.model_dump(mode="json"),
        "data": hashes,
        "reading": READING,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "libraries": libraries(),
    }
    rest = {key: value for key, value in before.items() if key != "created"}
    return {**rest, "data": {**rest.get("data", {}), **hashes}, "tuned": [*rest.get("tuned", []), tuning]}
