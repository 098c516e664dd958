"""A trained network to a version in the store: rounded first, so that what is evaluated is what is kept."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from polytask.model.answers import Answer
from polytask.model.encoding import Input, InputEncoder
from polytask.model.network import Network
from polytask.model.tasks import Kind
from polytask.model_store.backbones import BASE_WEIGHTS
from polytask.model_store.durable_files import sha256_of
from polytask.model_store.manifest import Base, Golden
from polytask.model_store.save import NewVersion, save
from polytask.training.backbone import Backbone, weights_file
from polytask.training.data.examples import TaskData
from polytask.training.data.files import fingerprint
from polytask.training.evaluation.evaluate import answer_inputs, answer_tasks, calibrate_thresholds, score_tasks
from polytask.training.evaluation.metrics import Scores
from polytask.training.publishing.version_card import render_card
from polytask.training.recipes.schema import Recipe

_PRECISION = torch.float16
_CALIBRATION_EXAMPLES = 10_000
_LIBRARIES = ("torch", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True, slots=True)
class Run:
    """What a run knows before it starts: its recipe, its data and their trivial scores, and where all of it is from."""

    recipe: Recipe
    data: Sequence[TaskData]
    baselines: dict[str, Scores]
    provenance: dict[str, Any]


def publish(
    run: Run,
    network: Network,
    encoder: InputEncoder,
    backbone: Backbone,
    store: Path,
    progress: Callable[[str], None] | None = None,
) -> tuple[Path, dict[str, Scores], dict[str, list[Answer]]]:
    """Rounds, calibrates, evaluates and saves the network.

    Returns the version's folder, its metrics, and the answers to the validation examples that they are of. `progress`
    hears of each task that is answered.

    A backbone given by name becomes the version's base, and only what differs from it is stored; with a backbone
    given by folder, or one that is not in a single safetensors file, the version holds everything.
    """
    base = None
    weights = weights_file(backbone.folder)
    if not Path(run.recipe.backbone.name).is_dir() and weights.name == BASE_WEIGHTS:
        base = Base(run.recipe.backbone.name, sha256_of(weights))
    round_weights(network, _PRECISION, frozen=base is None)
    calibrate(network, encoder, run.data)
    answers = answer_tasks(network, encoder, run.data, progress)
    scores = score_tasks(run.data, answers)
    contents = NewVersion(
        network=network,
        tokenizer_json=backbone.tokenizer.to_str(),
        base=base,
        precision=_PRECISION,
        metrics=scores,
        baselines=run.baselines,
        goldens=goldens(network, encoder, run.data),
        provenance=run.provenance,
        card=render_card(run.recipe, run.data, scores, run.baselines),
    )
    return save(store, run.recipe.name, contents), scores, answers


def round_weights(network: Network, precision: torch.dtype, *, frozen: bool) -> None:
    """Rounds every weight to `precision` and back; the `frozen` ones too unless they stay the base's own."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad or frozen:
                parameter.copy_(parameter.to(precision))


def calibrate(network: Network, encoder: InputEncoder, data: Sequence[TaskData]) -> None:
    """Sets the thresholds of the multilabel tasks, on training examples: validation stays unseen."""
    network.tasks = tuple(
        calibrate_thresholds(network, encoder, task_id, own.train[:_CALIBRATION_EXAMPLES])
        if own.task.kind is Kind.MULTILABEL
        else own.task
        for task_id, own in enumerate(data)
    )


def goldens(network: Network, encoder: InputEncoder, data: Sequence[TaskData]) -> tuple[Golden, ...]:
    """The recipe's examples, or a task's first validation input, with the answers that any server must repeat."""
    found = []
    for task_id, own in enumerate(data):
        given = own.config.examples
        inputs = [Input(one.text, one.text_pair, one.candidates) for one in given] or [own.validation[0].input]
        answers = answer_inputs(network, encoder, task_id, inputs)
        found += [Golden(own.task.name, item, asdict(one)) for item, one in zip(inputs, answers, strict=True)]
    return tuple(found)


def provenance(recipe: Recipe, text: str, data_folder: Path) -> dict[str, Any]:
    """Where a version comes from: the recipe's text, data hashes, code commit, library versions, time of the start."""
    files = {name for task in recipe.tasks for name in (*task.train, *task.measured_files)}
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": text,
        "data": {name: fingerprint(data_folder, name) for name in sorted(files)},
        "commit": commit(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "python": platform.python_version(),
        "processor": platform.machine(),
    }


def commit() -> str | None:
    """The commit of the code, `+` behind it where files differ from it; None outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"],  # noqa: S607 - git is found on the path
            cwd=Path(__file__).parent,
            capture_output=True,
            check=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
