"""Training speed beside the Hugging Face Trainer: the same backbone, the same texts, the same machine, one run.

`python -m benchmarks.quality.speed DATA`. The Trainer fine-tunes one classifier over all texts; we train all tasks of
glue8 with the recipe's conditioning, by task share, by task-uncertainty and by exact and amortised MT-Uncertainty, which
choose longer texts than chance does: hence the rate in tokens. The systems take turns, so that a machine that slows down
slows all of them.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from torch.utils.data import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging

from benchmarks.quality.methods import changed, plain
from polytask.model.encoding import InputEncoder
from polytask.training.backbone import Backbone, build_network, load_backbone
from polytask.training.data.examples import EncodedExample, TaskData
from polytask.training.loop.trainer import Training
from polytask.training.preparation import encode_tasks, load_data
from polytask.training.recipes.schema import Recipe, read_recipe

_RECIPE = Path(__file__).parents[2] / "training" / "recipes" / "glue8.toml"


class Turn(NamedTuple):
    """The result of a turn: examples and tokens trained on, without padding, and seconds."""

    examples: int
    tokens: int
    seconds: float


Round = Callable[[int], Turn]
"""Trains on about so many examples."""


class Texts(Dataset[dict[str, Any]]):
    """The same rows of token ids for the Trainer, each with an arbitrary label."""

    def __init__(self, examples: Sequence[EncodedExample]) -> None:
        self._rows = [example.encodings[0] for example in examples]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        row = self._rows[place]
        return {"input_ids": list(row.input_ids), "token_type_ids": list(row.segment_ids), "labels": place % 2}


def main(
    data: Annotated[Path, typer.Argument(help="The folder of the data sets.")],
    examples: Annotated[int, typer.Option(help="Examples in a turn of a system.")] = 1600,
    turns: Annotated[int, typer.Option(help="How often each system has its turn.")] = 3,
) -> None:
    """Prints examples a second of each system, and the ratio to each setting of the Trainer."""
    logging.set_verbosity_error()
    recipe = read_recipe(_RECIPE)[0]
    backbone = load_backbone(recipe.backbone.name)
    encoder = InputEncoder(backbone.tokenizer)
    tasks = load_data(recipe, data, Console())
    encoded = encode_tasks(encoder, tasks, Console())
    uncertain = {"name": "mt-uncertainty", "horizon": 10}
    systems = {
        title: _ours(own, backbone, encoder, tasks, encoded)
        for title, own in (
            ("CA-MTL, proportional", changed(recipe, sampler={"name": "proportional"})),
            ("CA-MTL, task-uncertainty", changed(recipe, sampler={"name": "task-uncertainty"})),
            ("CA-MTL, MT-Uncertainty, exact", changed(recipe, sampler=uncertain | {"amortised": False})),
            ("CA-MTL, MT-Uncertainty, amortised", changed(recipe, sampler=uncertain | {"amortised": True})),
            (
                "CA-MTL, MT-Uncertainty, amortised, half as fresh",
                changed(recipe, sampler=uncertain | {"amortised": True, "refresh": 0.25}),
            ),
            ("hard sharing, nothing frozen", plain(recipe)),
        )
    }
    mixed = [example for own in encoded for example in own]
    for title, options in (
        ("Trainer, fp32", {}),
        ("Trainer, bf16", {"bf16": True}),
        ("Trainer, bf16, grouped by length", {"bf16": True, "train_sampling_strategy": "group_by_length"}),
    ):
        systems[title] = _trainer(mixed, backbone.folder, options)
    for run in systems.values():
        run(320)  # kernels are compiled at their first use
    found: dict[str, list[Turn]] = {title: [] for title in systems}
    for title, run in list(systems.items()) * turns:
        found[title].append(run(examples))
    for unit in ("examples", "tokens"):
        _print(unit, {title: [getattr(turn, unit) / turn.seconds for turn in own] for title, own in found.items()})


def _ours(
    recipe: Recipe,
    backbone: Backbone,
    encoder: InputEncoder,
    tasks: Sequence[TaskData],
    encoded: Sequence[Sequence[EncodedExample]],
) -> Round:
    network = build_network(recipe, backbone, [own.task for own in tasks])
    training = Training(network, encoded, recipe, encoder.pad_id, str)

    def run(examples: int) -> Turn:
        started, before, tokens = time.perf_counter(), training.examples, 0
        while training.examples < before + examples:
            tokens += training.step().tokens
        return Turn(training.examples - before, tokens, time.perf_counter() - started)

    return run


def _trainer(mixed: Sequence[EncodedExample], folder: Path, options: dict[str, Any]) -> Round:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    mean_length = statistics.fmean(example.longest for example in mixed)
    texts = itertools.cycle([Texts(mixed[start::16]) for start in range(16)])

    def run(examples: int) -> Turn:
        steps = examples // 32
        with tempfile.TemporaryDirectory() as output:
            arguments = TrainingArguments(
                output,
                use_cpu=not torch.cuda.is_available(),
                per_device_train_batch_size=32,
                max_steps=steps,
                learning_rate=1e-4,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                **options,
            )
            trainer = Trainer(
                model,
                arguments,
                train_dataset=next(texts),
                data_collator=DataCollatorWithPadding(tokenizer),
            )
            started = time.perf_counter()
            trainer.train()
            return Turn(32 * steps, round(32 * steps * mean_length), time.perf_counter() - started)

    return run


def _print(unit: str, rates: dict[str, list[float]]) -> None:
    means = {title: statistics.median(own) for title, own in rates.items()}
    rivals = [title for title in means if title.startswith("Trainer") or title == "CA-MTL, proportional"]
    print("|".join(["", " system ", f" {unit}/s, each turn ", " median ", *(f" times {own} " for own in rivals), ""]))
    print("|" + "---|" * (3 + len(rivals)))
    for title, own in rates.items():
        turns = ", ".join(f"{rate:.0f}" for rate in own)
        ratios = " | ".join(f"{means[title] / means[rival]:.2f}" for rival in rivals)
        print(f"| {title} | {turns} | {means[title]:.0f} | {ratios} |")


if __name__ == "__main__":
    typer.run(main)
