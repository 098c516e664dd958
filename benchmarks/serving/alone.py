"""The model alone on tokenised real texts, sorted by length: an upper bound for any server."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice

from benchmarks.serving.timing import run_all
from benchmarks.serving.workload import Row
from polytask.model.batch import Batch, collate
from polytask.model.encoding import Encoding, InputEncoder
from polytask.model.tasks import Task
from polytask.service.backends.selection import load_backend
from polytask.service.config.settings import Settings

_BATCHES = 8


class Alone:
    """A version of the store on the backend that the settings choose, with these rows."""

    def __init__(self, settings: Settings, rows: Sequence[Row]) -> None:
        checkpoint, self._backend = load_backend(settings)
        encoder = InputEncoder(checkpoint.tokenizer)
        ids = {task.name: task_id for task_id, task in enumerate(checkpoint.network.tasks)}
        encoded: list[tuple[int, Task, Encoding]] = [
            (ids[row.task.name], row.task, encoder.encode(row.task, [row.item])[0][0]) for row in rows
        ]
        self._rows = sorted(encoded, key=lambda row: len(row[2]))
        self._sources: dict[int, Iterator[Batch]] = {}

    @property
    def engine(self) -> str:
        """The backend and precision, such as onnxruntime-int8."""
        return f"{self._backend.name}-{self._backend.precision}"

    def texts_per_s(self, size: int, seconds: float) -> float:
        """Rows a second in batches of `size`. Continues where the last call with this size stopped."""
        if size not in self._sources:
            batches = [self._batch(start, size) for start in range(0, len(self._rows), size)]
            random.Random(0).shuffle(batches)
            self._sources[size] = cycle(batches)
        done, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds:
            # Enough for each stream that what the last one takes alone in the end is little.
            some = list(islice(self._sources[size], _BATCHES * self._backend.num_streams**2))
            run_all(self._backend, some)
            done += sum(len(batch.lengths) for batch in some)
        return done / elapsed

    def _batch(self, start: int, size: int) -> Batch:
        task_ids, tasks, rows = zip(*self._rows[start : start + size], strict=True)
        return collate(rows, task_ids, token_level=any(task.token_level for task in tasks))
