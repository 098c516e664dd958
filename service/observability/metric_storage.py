"""Metric storage: numbers of one process, or files in a folder whose numbers add up over processes.

Two kinds of metrics use it. Those of the Prometheus library belong to `registry`. Those by task (`TaskMetrics`) keep
their numbers in cells.
"""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

Cell: TypeAlias = "memoryview[float]"
"""The numbers (float64) of one series. Its owner writes them."""

QUEUE = "queue"
"""The group of cells that hold gauges: they count only while their process lives."""

_MAX_NUMBERS = 4 * 2**20
"""Numbers in a file: enough for 20,000 tasks. The file is sparse, so only written numbers take space."""

_SIZE = 8
"""Bytes of a number."""

_MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable in which the Prometheus library looks for the shared folder."""


class Cells(Protocol):
    """Allocates cells and reads them."""

    def allocate(self, size: int) -> Cell:
        """A new cell of `size` zeros."""

    def reader(self, cells: Sequence[Cell]) -> Callable[[], NDArray[np.float64]]:
        """A function that returns the numbers of these cells, one cell after the other."""


class ProcessCells:
    """Cells in the memory of this process (`Cells`). A cell is freed with its last reference."""

    def allocate(self, size: int) -> Cell:
        """A new cell of `size` zeros."""
        return memoryview(array("d", bytes(_SIZE * size)))

    def reader(self, cells: Sequence[Cell]) -> Callable[[], NDArray[np.float64]]:
        """A function that returns the numbers of these cells, one cell after the other."""
        return lambda: np.frombuffer(b"".join(cells))


class SharedCells:
    """Cells in a file of this process (`Cells`). Reading sums over all files of the same `group` in `folder`.

    All processes must allocate the same cells of a group in the same order. A process that replaces a dead one of its
    name continues with the numbers in that one's file, which holds them even after a kill.
    """

    def __init__(self, folder: Path, process: str, group: str) -> None:
        self._folder, self._pattern = folder, f"*.{group}"
        with (folder / f"{process}.{group}").open("a+b") as file:
            file.truncate(_MAX_NUMBERS * _SIZE)
            self._numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")
        self._starts: dict[int, int] = {}
        self._allocated = 0

    def allocate(self, size: int) -> Cell:
        """A new cell of `size` numbers: zeros, or those of the process that this one replaces."""
        start, self._allocated = self._allocated, self._allocated + size
        assert self._allocated <= _MAX_NUMBERS, "a checkpoint has fewer tasks than fill the file"
        cell = self._numbers[start : self._allocated]
        self._starts[id(cell)] = start
        return cell

    def reader(self, cells: Sequence[Cell]) -> Callable[[], NDArray[np.float64]]:
        """A function that returns the numbers of these cells, one cell after the other, summed over processes."""
        ranges = [range(start := self._starts[id(cell)], start + len(cell)) for cell in cells]
        indices = np.fromiter(chain.from_iterable(ranges), np.intp)

        def read() -> NDArray[np.float64]:
            total = np.zeros(self._allocated)
            for path in self._folder.glob(self._pattern):
                total += np.fromfile(path, count=self._allocated)
            selected: NDArray[np.float64] = total[indices]
            return selected

        return read


class ProcessStorage:
    """The metrics of this process alone, with its memory and processor time."""

    shared = False

    def __init__(self) -> None:
        # A switch of the whole process; a creation time for each series would double the page.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

    def cells(self, group: str) -> Cells:  # noqa: ARG002, groups matter to files only
        """Storage for a group of metrics by task."""
        return ProcessCells()

    def page(self) -> bytes:
        """The metrics of `registry` in Prometheus' text format."""
        return generate_latest(self.registry)


class SharedStorage:
    """The metrics of this process in `folder`; a page sums those of all processes that share it.

    At most one for a process, created before any of its metrics: it changes the library and the environment for good. Living processes have different names, without an
    underscore. One that replaces a dead one of its name continues with its counters, so that a sum never falls.
    """

    shared = True

    def __init__(self, folder: Path, process: str) -> None:
        self.registry = CollectorRegistry()
        self._folder, self._process = folder, process
        # The library takes the folder from the environment, and would name files by process id: a new file a restart.
        os.environ[_MULTIPROCESS_FOLDER] = str(folder)
        values.ValueClass = values.MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]

    def cells(self, group: str) -> Cells:
        """Storage for a group of metrics by task."""
        return SharedCells(self._folder, self._process, group)

    def page(self) -> bytes:
        """The library's metrics of all processes in Prometheus' text format."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._folder))  # type: ignore[no-untyped-call]
        return generate_latest(registry)


MetricStorage: TypeAlias = ProcessStorage | SharedStorage


def remove_gauges(folder: Path, process: str) -> None:
    """Removes the gauges of a process that has died. Its counters stay."""
    mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]
    (folder / f"{process}.{QUEUE}").unlink(missing_ok=True)
