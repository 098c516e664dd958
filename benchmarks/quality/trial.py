"""One trial: a method, a seed and some tasks; trained, scored on validation, recorded as one line.

A trial that was stopped resumes from its last checkpoint, in `runs/quality`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file

from benchmarks.quality.methods import Method, changed
from polytask.model.encoding import InputEncoder
from polytask.model.network import Network, parameter_counts
from polytask.model_store import DEFAULT_STORE
from polytask.training.data.examples import TaskData
from polytask.training.evaluation.evaluate import answer_inputs, evaluate_tasks
from polytask.training.evaluation.metrics import Scores, score_task
from polytask.training.loop.trainer import Training
from polytask.training.preparation import prepare
from polytask.training.publishing.publish import calibrate
from polytask.training.recipes.schema import Recipe
from polytask.training.runs.checkpoints import latest_checkpoint, read_snapshot, write_checkpoint
from polytask.training.runs.provenance import commit
from polytask.training.teachers.logit_cache import write_logits
from polytask.training.teachers.single_task import Teacher, example_logits
from polytask.training.teachers.teach import logits_path, teach

_RUNS = Path(__file__).parents[2] / "runs" / "quality"
_LOGITS = _RUNS / "teachers.logits"
_CHECKPOINT_S = 120

_LORA = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a trial.

    `scores`: task to metric to value on validation, the main metric first. `selection`: the same on the training examples
    that no update saw, by which methods are chosen. `examples`: the number trained on.
    `backbone`, `added`, `trainable`: parameters; `added` is without heads. `seconds` of training, evaluation apart.
    """

    suite: str
    method: str
    seed: int
    tasks: tuple[str, ...]
    scores: dict[str, dict[str, float]]
    selection: dict[str, dict[str, float]]
    examples: int
    updates: int
    examples_by_task: dict[str, int]
    backbone: int
    added: int
    trainable: int
    seconds: float
    threads: int
    commit: str | None


def run_trial(
    suite: str, method: Method, recipe: Recipe, data_folder: Path, console: Console, *, keep: bool = False
) -> Outcome:
    """Trains the recipe's tasks by the method and measures them. `recipe` has the trial's tasks and seed.

    `keep`: whether the trained weights stay in the folder of runs.
    """
    recipe = method.recipe(recipe)
    prepared = prepare(recipe, "", data_folder, Console(quiet=True))
    data, examples, backbone, encoder = prepared.data, prepared.examples, prepared.backbone, prepared.encoder
    if method.epochs:
        recipe = changed(recipe, length={"examples": method.epochs * sum(map(len, examples))})
    if recipe.teachers.teach:
        console.print(f"teachers of {suite} {method.name} {recipe.seed}")
        examples = teach(recipe, data, examples, backbone, encoder, cache=_LOGITS, store=DEFAULT_STORE, console=console)
    network = prepared.network
    if method.lora:
        for parameter in network.encoder.parameters():
            parameter.requires_grad_(False)
        inject_adapter_in_model(_LORA, network.encoder)
    training = Training(network, examples, recipe, encoder.pad_id, prepared.text_of)
    drawn = dict.fromkeys((own.task.name for own in data), 0)
    name = f"{suite} {method.name} {recipe.seed} {recipe.tasks[0].name if method.per_task else ''}".strip()
    checkpoints = _RUNS / name.replace(" ", "-")
    before = _go_on(training, checkpoints, drawn)
    started, done = time.monotonic() - before, training.examples
    steps = _steps(training, drawn, checkpoints, started)
    for _ in track(steps, name, console=console, total=training.num_examples, completed=done):
        pass
    seconds = time.monotonic() - started
    with torch.no_grad(), training.average.applied():
        calibrate(network, encoder, data)
        if method.teaches:
            teacher = Teacher(recipe, data[0].task, examples[0], examples[0], range(len(examples[0])))
            write_logits(
                logits_path(_LOGITS, teacher, backbone), example_logits(network, 0, examples[0], encoder.pad_id)
            )
        if keep:
            _keep(network, checkpoints.with_suffix(".safetensors"))
        scores = evaluate_tasks(network, encoder, data)
        selection = _selection_scores(network, encoder, data)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return Outcome(
        suite=suite,
        method=method.name,
        seed=recipe.seed,
        tasks=tuple(drawn),
        scores=scores,
        selection=selection,
        examples=training.examples,
        updates=training.updates,
        examples_by_task=drawn,
        seconds=round(seconds, 1),
        threads=torch.get_num_threads(),
        commit=commit(),
        **_sizes(network),
    )


def _selection_scores(network: Network, encoder: InputEncoder, data: Sequence[TaskData]) -> dict[str, Scores]:
    """The metrics of every task that has examples to choose by."""
    scores = {}
    for task_id, own in enumerate(data):
        if own.selection:
            answers = answer_inputs(network, encoder, task_id, [example.input for example in own.selection])
            chosen = replace(own, validation=own.selection, splits={"selection": len(own.selection)})
            scores[own.task.name] = score_task(chosen, answers)
    return scores


def _keep(network: Network, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)


def _go_on(training: Training, checkpoints: Path, drawn: dict[str, int]) -> float:
    """Resumes from the last checkpoint, if any. Returns the seconds of training until then."""
    checkpoint = latest_checkpoint(checkpoints)
    if checkpoint is None:
        return 0.0
    snapshot = read_snapshot(checkpoint)
    training.restore(snapshot)
    drawn.update(snapshot.state["drawn"])
    return float(snapshot.state["seconds"])


def _steps(training: Training, drawn: dict[str, int], checkpoints: Path, started: float) -> Iterator[int]:
    """One item for every example trained on, so that the bar knows the time left. Checkpoints on the way."""
    names, kept = list(drawn), time.monotonic()
    while training.progress < 1:
        task_ids = training.step().task_ids
        for task_id in task_ids:
            drawn[names[task_id]] += 1
        yield from range(len(task_ids))
        if time.monotonic() - kept > _CHECKPOINT_S:
            kept = time.monotonic()
            snapshot = training.snapshot()
            state = {**snapshot.state, "drawn": drawn, "seconds": kept - started}
            write_checkpoint(checkpoints, training.updates, replace(snapshot, state=state))


def _sizes(network: Network) -> dict[str, int]:
    """Low-rank updates count as added."""
    counts = parameter_counts(network)
    low_rank = sum(p.numel() for name, p in network.encoder.named_parameters() if "lora_" in name)
    return {
        "backbone": counts.backbone - low_rank,
        "added": counts.conditional + low_rank,
        "trainable": counts.trainable,
    }
