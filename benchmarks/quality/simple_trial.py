"""Simple trial: a linear model of one task by scikit-learn, scored on validation, recorded as one line."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.quality.methods import Method
from benchmarks.quality.trial import Outcome
from polytask.model.encoding import InputEncoder
from polytask.training.backbone import load_backbone
from polytask.training.evaluation.simple_models import simple_models
from polytask.training.preparation import load_data
from polytask.training.recipes.schema import Recipe
from polytask.training.runs.provenance import commit
from polytask.training.runs.references import score_references


def run_simple_trial(suite: str, method: Method, recipe: Recipe, data_folder: Path) -> Outcome:
    """Trains and measures the method's simple model of the recipe's task. `trainable` is 0: its features decide its size."""
    assert method.simple is not None
    data = load_data(recipe, data_folder, Console(quiet=True))
    backbone = load_backbone(recipe.backbone.name)
    encoder, started = InputEncoder(backbone.tokenizer), time.monotonic()
    run = data, backbone, encoder, torch.device("cpu"), Console(quiet=True)
    scores = score_references(*run, names=[method.simple], bf16=bool(recipe.length.bf16))[method.simple]
    drawn = {own.task_data.task.name: len(own.train) for own in simple_models(data) if own.name == method.simple}
    return Outcome(
        suite=suite,
        method=method.name,
        seed=recipe.seed,
        tasks=tuple(drawn),
        scores=scores,
        selection={},
        examples=sum(drawn.values()),
        updates=0,
        examples_by_task=drawn,
        backbone=sum(tensor.numel() for tensor in backbone.tensors.values()),
        added=0,
        trainable=0,
        seconds=round(time.monotonic() - started, 1),
        threads=torch.get_num_threads(),
        commit=commit(),
    )
