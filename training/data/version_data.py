"""Version data: validation and training examples of a version in the store, from the files that its recipe names."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pydantic

from polytask.model.encoding import Input
from polytask.model_store.errors import ManifestInvalid
from polytask.model_store.manifest import MANIFEST, Manifest, read_manifest
from polytask.training.data.examples import READING, TaskData, load_known_task, load_task, load_validation
from polytask.training.data.files import fingerprint
from polytask.training.data.issues import read_all
from polytask.training.recipes.schema import Recipe, TaskConfig


def validation_data(version_folder: Path, data_folder: Path) -> list[TaskData]:
    """The version's tasks, in order, with their validation examples in `data_folder`. `train` is empty.

    Raises StoreError for a version without a usable recipe, and DataError with all errors in the files, also labels that
    the version does not have.
    """
    manifest = read_manifest(version_folder)
    configs = _task_configs(version_folder, manifest)
    return read_all(partial(load_validation, task, configs[task.name], data_folder) for task in manifest.tasks)


def training_inputs(version_folder: Path, data_folder: Path) -> list[tuple[Input, ...]]:
    """The training inputs of each of the version's tasks, in order, without the right answers.

    Raises StoreError or DataError.
    """
    manifest = read_manifest(version_folder)
    configs = _task_configs(version_folder, manifest)
    data = read_all(partial(load_task, configs[task.name], data_folder) for task in manifest.tasks)
    return [tuple(example.input for example in task_data.train) for task_data in data]


def tuning_data(version_folder: Path, data_folder: Path, names: Sequence[str]) -> list[TaskData]:
    """The named tasks of the version with all their examples in `data_folder`, read with the version's labels and ranges.

    Raises StoreError for a version without a usable recipe, and DataError with all errors in the files, also labels that
    the version does not have.
    """
    manifest = read_manifest(version_folder)
    configs = _task_configs(version_folder, manifest)
    tasks = [task for task in manifest.tasks if task.name in names]
    return read_all(partial(load_known_task, task, configs[task.name], data_folder) for task in tasks)


def changed_files(version_folder: Path, data_folder: Path) -> list[str]:
    """The validation files in `data_folder` that have changed since the version was measured, or may have changed.

    So has the held-out part of a file, if the version was made by other rules of reading. All files must exist. Raises
    StoreError.
    """
    manifest = read_manifest(version_folder)
    hashes = manifest.provenance.get("data")
    recorded = hashes if isinstance(hashes, dict) else {}
    other_rules = manifest.provenance.get("reading") != READING
    files: dict[str, bool] = {}
    for config in _task_configs(version_folder, manifest).values():
        for file in config.measured_files:
            files[file] = files.get(file, False) or (other_rules and bool(config.holdout))
    return [
        file for file, is_other in files.items() if is_other or recorded.get(file) != fingerprint(data_folder, file)
    ]


def _task_configs(version_folder: Path, manifest: Manifest) -> dict[str, TaskConfig]:
    """The configuration of each of the version's tasks, from its recipe."""
    path, remedy = version_folder / MANIFEST, "use a version that `polytask train` has made"
    text = manifest.provenance.get("recipe")
    if not isinstance(text, str):
        raise ManifestInvalid(path, "has no recipe in its provenance, so its data are not known", remedy)
    try:
        recipe = Recipe.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, pydantic.ValidationError) as error:
        summary = str(error).splitlines()[0]
        raise ManifestInvalid(path, f"has a recipe that this release cannot read ({summary})", remedy) from error
    configs = {config.name: config for config in recipe.tasks}
    missing = [task.name for task in manifest.tasks if task.name not in configs]
    if missing:
        raise ManifestInvalid(path, f"has a recipe without the task {missing[0]!r}", remedy)
    return {task.name: configs[task.name] for task in manifest.tasks}
