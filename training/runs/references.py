"""References of a run: the simple models of its tasks, trained and scored with their progress shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich.console import Console

from polytask.model.encoding import InputEncoder
from polytask.training.backbone import Backbone
from polytask.training.data.examples import TaskData
from polytask.training.evaluation.frozen_features import FrozenBackbone
from polytask.training.evaluation.simple_models import FROZEN, TFIDF, References, simple_models
from polytask.training.runs.progress import ProgressBar


def score_references(
    data: Sequence[TaskData],
    backbone: Backbone,
    encoder: InputEncoder,
    device: torch.device,
    console: Console,
    *,
    names: Sequence[str] = (TFIDF, FROZEN),
    bf16: bool = False,
) -> References:
    """The scores of the simple models of those names. Changes no state of the run, such as that of its random numbers.

    `bf16`: whether the backbone computes in bfloat16. Says on the console which of them learn from a part of the examples.
    """
    frozen = FrozenBackbone(backbone, encoder, device, bf16=bf16)
    models = [model for model in simple_models(data) if model.name in names]
    scores: References = {name: {} for name in names}
    with ProgressBar(console, "training simple models", sum(model.num_rows for model in models), "rows") as bar:
        for model in models:
            scores[model.name][model.task_data.task.name] = model.score(frozen)
            bar.advance(model.num_rows)
    for model in models:
        if len(model.train) < len(model.task_data.train):
            part = f"{len(model.train):,} of {len(model.task_data.train):,} training examples"
            line = f"{model.task_data.task.name}: the linear model on {model.name} features has learnt from {part}"
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    return scores
