"""The stages of a run that is ready: begin or go on, train, publish, and write down how good it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from polytask.model.encoding import InputEncoder
from polytask.model.network import Network, parameter_counts
from polytask.model_store.durable_files import replace_text, sha256_of
from polytask.training.backbone import Backbone, weights_file
from polytask.training.data.examples import EncodedExample
from polytask.training.evaluation.diagnostics import diagnose
from polytask.training.evaluation.evaluate import answer_tasks, score_tasks
from polytask.training.evaluation.score_table import scores_table
from polytask.training.loop.distributed import Group
from polytask.training.loop.trainer import Training, train
from polytask.training.publishing.publish import Run, publish
from polytask.training.runs.checkpoints import Snapshot, latest, read_snapshot
from polytask.training.runs.console_display import Display
from polytask.training.runs.event_log import EventLog
from polytask.training.runs.run_folder import RunFolder
from polytask.training.runs.run_logger import RunLogger
from polytask.training.runs.tensorboard_writer import Board


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that is ready: everything is read and checked, nothing is written."""

    run: Run
    examples: Sequence[Sequence[EncodedExample]]
    backbone: Backbone
    network: Network
    encoder: InputEncoder

    def facts(self, group: Group) -> dict[str, Any]:
        """What a run that goes on must find as it was."""
        return {
            "recipe": self.run.recipe.model_dump(mode="json"),
            "data": self.run.provenance["data"],
            "backbone": sha256_of(weights_file(self.backbone.folder)),
            "processes": group.size,
        }

    def begun(self, origin: dict[str, Any]) -> PreparedRun:
        """The same with the provenance of the run's beginning."""
        return replace(self, run=replace(self.run, provenance=origin))

    def training(self, group: Group) -> Training:
        """The training at its very beginning."""
        return Training(
            self.network, self.examples, self.run.recipe, self.encoder.pad_id, text_of=self._text_of, group=group
        )

    def _text_of(self, example: EncodedExample) -> str:
        return self.backbone.tokenizer.decode(list(example.encodings[0].input_ids))


def train_and_publish(prepared: PreparedRun, place: RunFolder, store: Path, console: Console, group: Group) -> Path:
    """All of a run in the process that shows and writes. Returns the version's folder. Raises as `train`."""
    training = prepared.training(group)
    snapshot = _restore(training, latest(place.checkpoints))
    run, network, encoder = prepared.run, prepared.network, prepared.encoder
    total = run.recipe.length.examples
    display = Display(console, network.tasks, total)
    with ExitStack() as stack:
        history = EventLog(place.history, 0 if snapshot is None else snapshot.state["journal"]["history"])
        board = _board(place, run.recipe.length.tensorboard, training.examples, console, stack)
        journal = RunLogger(network.tasks, total, display, history, board)
        if snapshot is None:
            journal.start(run.recipe.name, asdict(parameter_counts(network)))
        else:
            journal.restore(snapshot.state["journal"])
            journal.resume()
            console.print(f"goes on after {training.examples:,} of {total:,} examples")

        def evaluate(check: Callable[[], None]) -> None:
            def progress(task: str) -> None:
                display.answered(task)
                check()

            scores = score_tasks(run.data, answer_tasks(network, encoder, run.data, progress))
            journal.evaluated(scores)
            console.print(scores_table(scores, run.baselines))

        with display:
            train(training, journal, place.checkpoints, evaluate)
            training.average.settle()
            version = _publish(prepared, place, store, display, console)
        journal.finish(f"{version.parent.name}/{version.name}")
    shutil.rmtree(place.checkpoints)
    return group.from_first(version)


def train_only(prepared: PreparedRun, place: RunFolder, group: Group) -> Path:
    """The training in any other process, which then waits for the version."""
    training = prepared.training(group)
    _restore(training, None)
    tasks, total = prepared.network.tasks, prepared.run.recipe.length.examples
    journal = RunLogger(tasks, total, Display(Console(quiet=True), tasks, total))
    train(training, journal, place.checkpoints, lambda _: None)
    return group.from_first(Path())


def _restore(training: Training, checkpoint: Path | None) -> Snapshot | None:
    """Goes on from the first process's `checkpoint` if it has one."""
    checkpoint = training.group.from_first(checkpoint)
    if checkpoint is None:
        return None
    snapshot = read_snapshot(checkpoint)
    training.restore(snapshot)
    return snapshot


def _board(place: RunFolder, wanted: bool, examples: int, console: Console, stack: ExitStack) -> Board | None:
    """The board that is wanted, closed with the `stack`; without the package a line says that there is none."""
    if not wanted:
        return None
    try:
        board = Board(place.tensorboard, examples)
    except ImportError:
        console.print("nothing is written for TensorBoard: its package is not installed (pip install tensorboard)")
        return None
    stack.callback(board.close)
    return board


def _publish(prepared: PreparedRun, place: RunFolder, store: Path, display: Display, console: Console) -> Path:
    """Publishes the network, and writes down its scores and a closer look at its answers."""
    run, network = prepared.run, prepared.network
    version, scores, answers = publish(run, network, prepared.encoder, prepared.backbone, store, display.answered)
    display.evaluated(scores)
    console.print(scores_table(scores, run.baselines))
    diagnostics = {
        own.task.name: diagnose(task, own.validation, answers[own.task.name])
        for task, own in zip(network.tasks, run.data, strict=True)
    }
    results = {"scores": scores, "baselines": run.baselines, "diagnostics": diagnostics}
    replace_text(place.results, json.dumps(results, ensure_ascii=False))
    return version
