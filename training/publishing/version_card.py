"""The card of a version: what it does, how well, and from which data, in one table a person can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polytask.training.data.examples import TaskData
from polytask.training.evaluation.baselines import DESCRIPTIONS
from polytask.training.evaluation.metrics import Scores
from polytask.training.recipes.schema import Recipe


def render_card(
    recipe: Recipe, data: Sequence[TaskData], scores: Mapping[str, Scores], baselines: Mapping[str, Scores]
) -> str:
    """The card as Markdown. `scores` and `baselines`: task to metric to value, on validation."""
    rows = "\n".join(_row(own, scores[own.task.name], baselines[own.task.name]) for own in data)
    return f"""# {recipe.name}

{len(data)} tasks in one checkpoint on the backbone {recipe.backbone.name}.

Every figure is measured on the validation split with the weights as they are stored; the trivial baseline beside it
is learned from the training split alone. Thresholds of multilabel tasks are set on training examples.

| task | kind | metric | validation | trivial baseline | which is | train / validation | data | licence |
|---|---|---|---:|---:|---|---:|---|---|
{rows}

Trained on {recipe.length.examples:,} drawn examples (sampler: {recipe.sampler.name}, seed {recipe.seed}). The whole
recipe, the hashes of the data, the code's commit and further metrics are in `manifest.json`.
"""


def _row(own: TaskData, scores: Scores, baseline: Scores) -> str:
    metric = next(iter(scores))
    sizes = f"{len(own.train):,} / {next(iter(own.splits.values())):,}"  # the main metric is over the first split
    cells = (
        f"`{own.task.name}`",
        own.task.kind,
        metric,
        f"{scores[metric]:.4f}",
        f"{baseline[metric]:.4f}",
        DESCRIPTIONS[own.task.kind],
        sizes,
        own.config.source,
        own.config.licence,
    )
    return "| " + " | ".join(cells) + " |"
