"""Toy runs in memory: a training at its beginning, and a logger without output."""

from __future__ import annotations

from rich.console import Console

from polytask.model.network import Network
from polytask.training.data.examples import EncodedExample
from polytask.training.loop.distributed import Group
from polytask.training.loop.trainer import Training
from polytask.training.recipes.schema import Recipe
from polytask.training.runs.console_display import Display
from polytask.training.runs.event_log import EventLog
from polytask.training.runs.run_logger import RunLogger
from tests.training.conftest import Workshop


def text_of(example: EncodedExample) -> str:
    """A text that identifies an example, longer than fits into a message."""
    return " ".join(map(str, example.encodings[0].input_ids)).ljust(100, ".")


def start(workshop: Workshop, recipe: Recipe, network: Network | None = None, group: Group | None = None) -> Training:
    """The training of `network`, or of a fresh one, before its first step."""
    own = workshop.network() if network is None else network
    return Training(own, workshop.examples, recipe, workshop.encoder.pad_id, text_of, group)


def quiet_logger(training: Training, kind: type[RunLogger] = RunLogger, history: EventLog | None = None) -> RunLogger:
    """A logger for the run that prints nothing."""
    tasks, total = training.network.tasks, training.num_examples
    return kind(tasks, total, Display(Console(quiet=True), tasks, total), history)
