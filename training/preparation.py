"""Preparation of a run: recipe and data read and checked, examples encoded, network built. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from polytask.model.encoding import InputEncoder
from polytask.model.network import Network
from polytask.model.tasks import Kind
from polytask.model_store.durable_files import sha256_of
from polytask.training.backbone import Backbone, build_network, load_backbone, weights_file, with_word_shapes
from polytask.training.data.examples import (
    READING,
    EncodedExample,
    TaskData,
    encode_examples,
    load_task,
    weigh_labels_equally,
)
from polytask.training.data.issues import DataError, read_all
from polytask.training.data.shared_rows import SharedRows
from polytask.training.evaluation.baselines import score_baseline
from polytask.training.evaluation.metrics import Scores
from polytask.training.evaluation.paired_gain import PairedGain
from polytask.training.evaluation.simple_models import References
from polytask.training.priors import start_at_prior
from polytask.training.recipes.schema import Recipe
from polytask.training.runs.progress import track
from polytask.training.runs.provenance import provenance

_TOKENISED_AT_ONCE = 1_000
"""Examples; more would be held in the tokenizer's form for no gain in speed."""


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that is ready to train.

    `examples[t]`: the training examples of task t as rows. `baselines`: the scores of trivial answers, by task.
    `provenance`: where everything comes from, see `polytask.training.runs.provenance`. `references`: the scores of simple
    models, which are trained when the run begins. `gains`: of the second stage, by task.
    """

    recipe: Recipe
    data: Sequence[TaskData]
    examples: Sequence[Sequence[EncodedExample]]
    baselines: dict[str, Scores]
    provenance: dict[str, Any]
    backbone: Backbone
    network: Network
    encoder: InputEncoder
    references: References = field(default_factory=dict)
    gains: Mapping[str, PairedGain] = field(default_factory=dict)

    def fingerprint(self, num_processes: int) -> dict[str, Any]:
        """The values that must be unchanged when the run is resumed, as JSON values."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "data": self.provenance["data"],
            "reading": READING,
            "backbone": sha256_of(weights_file(self.backbone.folder)),
            "processes": num_processes,
        }

    def with_provenance(self, provenance: dict[str, Any]) -> PreparedRun:
        """The same run with the provenance of its beginning."""
        return replace(self, provenance=provenance)

    def text_of(self, example: EncodedExample) -> str:
        """The text of the example's first row."""
        return self.backbone.tokenizer.decode(list(example.encodings[0].input_ids))


def prepare(recipe: Recipe, text: str, data_folder: Path, console: Console) -> PreparedRun:
    """Prepares the run of a recipe; `text` is the recipe as it was written. Raises DataError, RecipeError or StoreError."""
    data = load_data(recipe, data_folder, console)
    backbone = load_backbone(recipe.backbone.name)
    encoder = InputEncoder(backbone.tokenizer)
    data = [
        replace(each, task=with_word_shapes(each.task, each.config.word_shapes, backbone.config, encoder))
        for each in data
    ]
    examples = encode_tasks(encoder, data, console)
    data = [_bound_answers(*each) for each in zip(data, examples, strict=True)]
    network = build_network(recipe, backbone, [task_data.task for task_data in data]).to(choose_device())
    if recipe.losses.prior:
        start_at_prior(network, examples)
    return PreparedRun(
        recipe=recipe,
        data=data,
        examples=examples,
        baselines={each.task.name: score_baseline(each) for each in track(console, "scoring trivial answers", data)},
        provenance=provenance(recipe, text, data_folder),
        backbone=backbone,
        network=network,
        encoder=encoder,
    )


def load_data(recipe: Recipe, folder: Path, console: Console) -> list[TaskData]:
    """Every task's examples. Raises one DataError that names the errors of all tasks, or RecipeError."""
    configs = track(console, "reading tasks", recipe.tasks)
    return read_all(partial(load_task, config, folder) for config in configs)


def encode_tasks(encoder: InputEncoder, data: Sequence[TaskData], console: Console) -> list[list[EncodedExample]]:
    """Every task's training examples as rows. Raises DataError for a task of which truncation leaves none."""
    tasks, rows = [], SharedRows()
    for task_id, task_data in enumerate(track(console, "tokenising tasks", data)):
        examples = [
            rows.shrink(example)
            for start in range(0, len(task_data.train), _TOKENISED_AT_ONCE)
            for example in encode_examples(
                encoder, task_data.task, task_id, task_data.train[start : start + _TOKENISED_AT_ONCE]
            )
        ]
        if not examples:
            files = ", ".join(task_data.config.train)
            remedy = "`max_length` in the recipe sets another number"
            raise DataError(f"{files}: no example fits into the {task_data.task.max_length} tokens of a row; {remedy}")
        tasks.append(weigh_labels_equally(examples) if task_data.config.balanced else examples)
    return tasks


def _bound_answers(task_data: TaskData, examples: Sequence[EncodedExample]) -> TaskData:
    """The task, of which a span task answers with at most as many tokens as its longest training answer has."""
    task = task_data.task
    if task.kind is not Kind.SPAN or task.max_answer_tokens is not None:
        return task_data
    longest = max(last - first + 1 for first, last in (example.target for example in examples))
    return replace(task_data, task=replace(task, max_answer_tokens=longest))


def choose_device() -> torch.device:
    """The GPU if there is one; of several, the one that this process uses."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
