"""Toy runs in memory: a training at its beginning, and a journal that says nothing."""

from __future__ import annotations

from rich.console import Console

from model.network import Network
from tests.training.conftest import Workshop
from training.config import Recipe
from training.display import Display
from training.distributed import Group
from training.examples import EncodedExample
from training.history import History
from training.journal import Journal
from training.loop import Training


def text_of(example: EncodedExample) -> str:
    """A text that tells examples apart, longer than a message has room for."""
    return " ".join(map(str, example.encodings[0].input_ids)).ljust(100, ".")


def start(workshop: Workshop, recipe: Recipe, network: Network | None = None, group: Group | None = None) -> Training:
    """The training of `network`, without one of a fresh one, before its first step."""
    own = workshop.network() if network is None else network
    return Training(own, workshop.examples, recipe, workshop.encoder.pad_id, text_of, group)


def quiet_journal(training: Training, kind: type[Journal] = Journal, history: History | None = None) -> Journal:
    """A journal of the run that shows nothing."""
    tasks, total = training.network.tasks, training.recipe.length.examples
    return kind(tasks, total, Display(Console(quiet=True), tasks, total), history)
