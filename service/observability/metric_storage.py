"""Where the numbers of series lie: in this process, or in files of a folder, whose numbers add up over processes."""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Cell: TypeAlias = "memoryview[float]"
"""The numbers of one series, float64, which their owner writes."""

_MAX_NUMBERS = 4 * 2**20
"""Of a file: enough for 20,000 tasks. The file has holes, and takes the space of those numbers that are written."""

_SIZE = 8
"""Bytes of a number."""


class Values(Protocol):
    """Hands out cells of zeros, and reads them."""

    def allocate(self, number: int) -> Cell:
        """A cell of so many numbers."""

    def reader(self, cells: Sequence[Cell]) -> Callable[[], NDArray[np.float64]]:
        """What reads the numbers of these cells, one cell after the other."""


class ProcessStorage:
    """In this process (`Values`). A cell is gone with its last reference."""

    def allocate(self, number: int) -> Cell:
        """As for any."""
        return memoryview(array("d", bytes(_SIZE * number)))

    def reader(self, cells: Sequence[Cell]) -> Callable[[], NDArray[np.float64]]:
        """As for any."""
        return lambda: np.frombuffer(b"".join(cells))


class SharedStorage:
    """In a file of this process (`Values`); what is read is the sum over the files of `folder` with the same suffix.

    All that share a suffix take the same cells in the same order. A process that takes the file of one that has died,
    because it has its name, goes on with its numbers: the file has them even after a kill.
    """

    def __init__(self, folder: Path, process: str, suffix: str) -> None:
        self._files = (folder, f"*.{suffix}")
        with (folder / f"{process}.{suffix}").open("a+b") as file:
            file.truncate(_MAX_NUMBERS * _SIZE)
            self._numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")
        self._places: dict[int, int] = {}
        self._taken = 0

    def allocate(self, number: int) -> Cell:
        """As for any."""
        place, self._taken = self._taken, self._taken + number
        assert self._taken <= _MAX_NUMBERS, "a checkpoint has fewer tasks than fill the file"
        cell = self._numbers[place : self._taken]
        self._places[id(cell)] = place
        return cell

    def reader(self, cells: Sequence[Cell]) -> Callable[[], NDArray[np.float64]]:
        """As for any."""
        places = [range(place := self._places[id(cell)], place + len(cell)) for cell in cells]
        order = np.fromiter(chain.from_iterable(places), np.intp)
        folder, pattern = self._files

        def read() -> NDArray[np.float64]:
            total = np.zeros(self._taken)
            for path in folder.glob(pattern):
                total += np.fromfile(path, count=self._taken)
            found: NDArray[np.float64] = total[order]
            return found

        return read
