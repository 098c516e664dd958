"""Texts of the benchmarks: validation inputs of a checkpoint's tasks, each of one row, the tasks mixed."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from polytask.model.encoding import Input
from polytask.model.tasks import Kind, Task
from polytask.model_store import DEFAULT_STORE
from polytask.model_store.versions import resolve
from polytask.training.data.version_data import validation_data

_PER_TASK = 320


@dataclass(frozen=True, slots=True)
class Row:
    """An input that is one row for the network."""

    task: Task
    item: Input

    @property
    def text(self) -> str:
        """The same tokens as one string, for a server that knows no pairs: the texts with [SEP] between them."""
        others = self.item.candidates or (() if self.item.text_pair is None else (self.item.text_pair,))
        return " [SEP] ".join((self.item.text, *others))


def read_rows(model: str, data_folder: Path, num_tasks: int) -> list[Row]:
    """Rows of the first tasks of a version that have validation inputs, shuffled with a fixed seed.

    Multiple choice has none; a ranking is asked about one candidate. Texts stay in `data_folder`, which is read only.
    """
    generator = random.Random(0)
    data = [own for own in validation_data(resolve(DEFAULT_STORE, model), data_folder) if _has_single_rows(own.task)]
    rows = [
        Row(own.task, replace(example.input, candidates=example.input.candidates[:1]))
        for own in data[:num_tasks]
        for example in generator.sample(own.validation, min(_PER_TASK, len(own.validation)))
    ]
    return generator.sample(rows, len(rows))


def tasks_of(rows: Sequence[Row]) -> list[Task]:
    """The tasks of the rows, each once, by name."""
    return sorted({row.task for row in rows}, key=lambda task: task.name)


def groups(rows: Sequence[Row], size: int) -> list[list[Row]]:
    """The rows in groups of `size` of one task, in the order in which the groups are full; what is left over is left out."""
    full, waiting = [], defaultdict[str, list[Row]](list)
    for row in rows:
        own = waiting[row.task.name]
        own.append(row)
        if len(own) == size:
            full.append(waiting.pop(row.task.name))
    return full


def _has_single_rows(task: Task) -> bool:
    return task.kind is not Kind.MULTIPLE_CHOICE
