"""Publishing: a trained network is rounded, calibrated, evaluated as it will be stored, and saved as a version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polytask.model.answers import Answer
from polytask.model.encoding import Input, InputEncoder
from polytask.model.network import Network
from polytask.model_store.backbones import BASE_WEIGHTS
from polytask.model_store.durable_files import sha256_of
from polytask.model_store.errors import StoreError
from polytask.model_store.manifest import Base, Golden, read_manifest
from polytask.model_store.save import NewVersion, same_bits, save
from polytask.model_store.versions import versions
from polytask.training.backbone import weights_file
from polytask.training.data.examples import TaskData
from polytask.training.evaluation.evaluate import answer_inputs, score_network
from polytask.training.evaluation.metrics import Scores
from polytask.training.evaluation.task_warnings import task_warnings
from polytask.training.preparation import PreparedRun
from polytask.training.publishing.calibration import Calibration, calibrate_task
from polytask.training.publishing.calibration_effect import CalibrationEffect, answer_with_effects
from polytask.training.publishing.version_card import render_card

_PRECISION = torch.float16


@dataclass(frozen=True, slots=True)
class Published:
    """A version's folder and, by task, its metrics, the answers to the validation examples that they were computed from, and
    what calibration has changed.
    """

    version: Path
    scores: dict[str, Scores]
    answers: dict[str, list[Answer]]
    calibration: dict[str, CalibrationEffect]


def publish(run: PreparedRun, store: Path, ending: str) -> Published:
    """Rounds, calibrates, evaluates and saves the run's network, in place. `ending`: how the training ended, for the card.

    A backbone given by name becomes the version's base, and only tensors that differ from it are stored. With a backbone
    given by folder, or one that is not in a single safetensors file, the version holds all tensors.
    """
    base = _base(run)
    round_network(run)
    calibrations = calibrate(run.network, run.encoder, run.data, _PRECISION)
    answers, effects = answer_with_effects(run.network, run.encoder, run.data, calibrations)
    scores = score_network(run.network, run.encoder, run.data, answers)
    warnings = task_warnings(run.data, scores, answers, run.references)
    new_version = NewVersion(
        network=run.network,
        tokenizer_json=run.backbone.tokenizer.to_str(),
        base=base,
        precision=_PRECISION,
        metrics=scores,
        baselines=run.baselines,
        references=run.references,
        goldens=goldens(run.network, run.encoder, run.data),
        provenance=run.provenance,
        card=render_card(
            run.recipe, run.data, scores, run.baselines, ending, warnings, effects, run.gains, run.references
        ),
    )
    # A run that was stopped after it had published, as by a full disk, publishes no second version.
    version = _published_before(store, run.recipe.name, run.provenance)
    return Published(version or save(store, run.recipe.name, new_version), scores, answers, effects)


def round_network(run: PreparedRun) -> None:
    """Rounds the run's network to the precision in which it will be stored. A second time changes nothing."""
    round_weights(run.network, _PRECISION, kept={} if _base(run) is None else run.backbone.tensors)


def _base(run: PreparedRun) -> Base | None:
    weights = weights_file(run.backbone.folder)
    if Path(run.recipe.backbone.name).is_dir() or weights.name != BASE_WEIGHTS:
        return None
    return Base(run.recipe.backbone.name, sha256_of(weights))


def _published_before(store: Path, name: str, provenance: Mapping[str, Any]) -> Path | None:
    """The version that the run with this provenance has published, if there is one."""
    for folder in (store / name / str(number) for number in reversed(versions(store, name))):
        with suppress(StoreError):
            found = read_manifest(folder).provenance
            if {key: value for key, value in found.items() if key != "created"} == provenance:
                return folder
    return None


def round_weights(network: Network, precision: torch.dtype, *, kept: Mapping[str, Tensor]) -> None:
    """Rounds every weight to `precision` and back, but those that are still equal, to the bit, to those of `kept`.

    Not only what was trained: new weights may be frozen as well, and a version can take neither from its base.
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name not in kept or not same_bits(parameter, kept[name]):
                parameter.copy_(parameter.to(precision))


def calibrate(
    network: Network, encoder: InputEncoder, data: Sequence[TaskData], precision: torch.dtype = torch.float32
) -> list[Calibration]:
    """Calibrates every task in place, as `calibrate_task`, on training examples, so that validation data stay unseen."""
    return [calibrate_task(network, encoder, task_id, each, precision) for task_id, each in enumerate(data)]


def goldens(network: Network, encoder: InputEncoder, data: Sequence[TaskData]) -> tuple[Golden, ...]:
    """Inputs with the answers that every server must repeat: the recipe's examples, or a task's first validation input."""
    result = []
    for task_id, task_data in enumerate(data):
        inputs = [Input(example.text, example.text_pair, example.candidates) for example in task_data.config.examples]
        inputs = inputs or [task_data.validation[0].input]
        answers = answer_inputs(network, encoder, task_id, inputs)
        result += [
            Golden(task_data.task.name, item, asdict(answer)) for item, answer in zip(inputs, answers, strict=True)
        ]
    return tuple(result)
