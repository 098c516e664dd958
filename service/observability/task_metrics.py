"""Counters, gauges and histograms by task. The text of their page is rendered once; later pages only fill in numbers."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from polytask.service.observability.metric_storage import Cell, Cells

_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

_Child = TypeVar("_Child", bound="Counter | Gauge | Histogram")


@dataclass(frozen=True, slots=True)
class Counter:
    """A number that only grows, in a cell of one number."""

    lock: threading.Lock
    cell: Cell

    def inc(self, amount: float = 1) -> None:
        """Adds to it."""
        with self.lock:
            self.cell[0] += amount


@dataclass(frozen=True, slots=True)
class Gauge:
    """The number that was set last, in a cell of one number."""

    cell: Cell

    def set(self, value: float) -> None:
        """Sets it."""
        self.cell[0] = value


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations by size. Its cell holds the count of each bucket, the last one without a bound, and then their sum."""

    lock: threading.Lock
    cell: Cell
    bounds: Sequence[float]

    def observe(self, value: float) -> None:
        """Adds an observation."""
        with self.lock:
            self.cell[bisect_left(self.bounds, value)] += 1
            self.cell[-1] += value


@dataclass(eq=False)
class MetricFamily(Generic[_Child]):
    """The series of one name, with the label `task` and perhaps one more.

    Calling it with a task, and a value of the other label, returns their registered child, or raises KeyError.
    `kind`: the type in Prometheus' text format. `make`: makes a child. `changed`: called when children are added or
    removed. `bounds`: of the buckets; empty for all but histograms.
    """

    kind: str
    name: str
    text: str
    label: str
    make: Callable[[], _Child]
    changed: Callable[[], None]
    bounds: Sequence[float] = ()
    children: dict[tuple[str, ...], _Child] = field(default_factory=dict)

    def __call__(self, *key: str) -> _Child:
        """The child of a task, and of a value of the other label."""
        return self.children[key]

    def register(self, *key: str) -> None:
        """Adds this child, at 0; keeps it where it is there already."""
        if key not in self.children:
            self.children[key] = self.make()
            self.changed()

    def remove(self, task: str) -> None:
        """Removes the children of a task."""
        self.children = {key: child for key, child in self.children.items() if key[0] != task}
        self.changed()

    def line_starts(self, keys: Iterable[tuple[str, ...]]) -> Iterator[str]:
        """The text on the page before each number of these children."""
        header = f"# HELP {self.name} {self.text}\n# TYPE {self.name} {self.kind}\n"
        for key in keys:
            pairs = sorted(zip(("task", self.label), key, strict=False))
            labels = ",".join(f'{name}="{value.translate(_ESCAPED)}"' for name, value in pairs)
            if self.bounds:
                for bound in (*map(float, self.bounds), "+Inf"):
                    yield f'{header}{self.name}_bucket{{le="{bound}",{labels}}} '
                    header = ""
                yield f"{self.name}_count{{{labels}}} "
                yield f"{self.name}_sum{{{labels}}} "
            else:
                yield f"{header}{self.name}{{{labels}}} "
            header = ""

    def samples(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """The numbers on the page. `numbers`: those of the children's cells."""
        if not self.bounds:
            return numbers
        by_child = numbers.reshape(-1, len(self.bounds) + 2)
        cumulative = by_child[:, :-1].cumsum(axis=1)
        return np.hstack([cumulative, cumulative[:, -1:], by_child[:, -1:]]).ravel()


class TaskMetrics:
    """Creates families of metrics by task, and renders their page. `cells`: where their numbers are stored."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._families: list[MetricFamily[Any]] = []
        # Several threads count, and adding to a cell is not atomic.
        self._lock = threading.Lock()
        self._changes = 0
        self._page: tuple[int, Callable[[], str]] | None = None

    def counter(self, name: str, text: str, label: str = "") -> MetricFamily[Counter]:
        """Counters with the label `task` and this one."""
        return self._family("counter", name, text, label, lambda: Counter(self._lock, self._cells.allocate(1)))

    def gauge(self, name: str, text: str) -> MetricFamily[Gauge]:
        """Gauges with the label `task`."""
        return self._family("gauge", name, text, "", lambda: Gauge(self._cells.allocate(1)))

    def histogram(self, name: str, text: str, bounds: Sequence[float], label: str = "") -> MetricFamily[Histogram]:
        """Histograms with the label `task` and this one."""

        def make() -> Histogram:
            return Histogram(self._lock, self._cells.allocate(len(bounds) + 2), bounds)

        return self._family("histogram", name, text, label, make, bounds)

    def remove(self, task: str) -> None:
        """Removes all series of a task."""
        for family in self._families:
            family.remove(task)

    def page(self) -> str:
        """All series in Prometheus' text format."""
        rendered = self._page
        if rendered is None or rendered[0] != self._changes:
            rendered = self._page = self._changes, self._render_template()
        return rendered[1]()

    def _family(
        self, kind: str, name: str, text: str, label: str, make: Callable[[], _Child], bounds: Sequence[float] = ()
    ) -> MetricFamily[_Child]:
        family = MetricFamily(kind, name, text, label, make, self._changed, bounds)
        self._families.append(family)
        return family

    def _changed(self) -> None:
        self._changes += 1

    def _render_template(self) -> Callable[[], str]:
        """A function that returns the page of the present children."""
        # A copy, because another thread may add or remove a task meanwhile.
        families = [(family, list(family.children.items())) for family in self._families]
        starts = [start for family, children in families for start in family.line_starts(key for key, _ in children)]
        cells = [[child.cell for _, child in children] for _, children in families]
        read = self._cells.reader(list(chain.from_iterable(cells)))
        ends = np.cumsum([sum(map(len, of_family)) for of_family in cells])[:-1]

        def page() -> str:
            parts = zip(self._families, np.split(read(), ends), strict=False)
            samples = np.concatenate([family.samples(numbers) for family, numbers in parts]).tolist()
            return "".join([f"{start}{number}\n" for start, number in zip(starts, samples, strict=True)])

        return page
