"""Counters, gauges and histograms by task, made for a page of many tasks: its text is laid out once, then numbers alone change."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from polytask.service.observability.metric_storage import Cell, Values

_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

_Child = TypeVar("_Child", bound="Counter | Gauge | Histogram")


@dataclass(frozen=True, slots=True)
class Counter:
    """A number that goes up: the one of its cell."""

    lock: threading.Lock
    cell: Cell

    def inc(self, amount: float = 1) -> None:
        """Adds to it."""
        with self.lock:
            self.cell[0] += amount


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number that is what it was last set to."""

    cell: Cell

    def set(self, value: float) -> None:
        """Sets it."""
        self.cell[0] = value


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations by size: its cell has how many fell into each bucket, the last without a bound, and their sum."""

    lock: threading.Lock
    cell: Cell
    bounds: Sequence[float]

    def observe(self, value: float) -> None:
        """Adds one."""
        with self.lock:
            self.cell[bisect_left(self.bounds, value)] += 1
            self.cell[-1] += value


@dataclass(eq=False)
class MetricFamily(Generic[_Child]):
    """The series of one name, which have the label `task` and perhaps one more.

    Called with a task, and a value of the other label, it gives the child that was declared so, or raises KeyError.
    `kind`: as Prometheus calls it. `make`: a child. `changed`: called when children come or go. `bounds`: of the buckets
    of histograms, which others do not have.
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
        """As above."""
        return self.children[key]

    def register(self, *key: str) -> None:
        """From now on there is this child, at 0 if it is new."""
        if key not in self.children:
            self.children[key] = self.make()
            self.changed()

    def remove(self, task: str) -> None:
        """The children of a task are gone."""
        self.children = {key: child for key, child in self.children.items() if key[0] != task}
        self.changed()

    def lines(self, keys: Iterable[tuple[str, ...]]) -> Iterator[str]:
        """What stands on the page before each number of these children."""
        before = f"# HELP {self.name} {self.text}\n# TYPE {self.name} {self.kind}\n"
        for key in keys:
            pairs = sorted(zip(("task", self.label), key, strict=False))
            labels = ",".join(f'{name}="{value.translate(_ESCAPED)}"' for name, value in pairs)
            if self.bounds:
                for bound in (*map(float, self.bounds), "+Inf"):
                    yield f'{before}{self.name}_bucket{{le="{bound}",{labels}}} '
                    before = ""
                yield f"{self.name}_count{{{labels}}} "
                yield f"{self.name}_sum{{{labels}}} "
            else:
                yield f"{before}{self.name}{{{labels}}} "
            before = ""

    def samples(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """The numbers on the page, given those of the cells."""
        if not self.bounds:
            return numbers
        by_child = numbers.reshape(-1, len(self.bounds) + 2)
        below = by_child[:, :-1].cumsum(axis=1)
        return np.hstack([below, below[:, -1:], by_child[:, -1:]]).ravel()


class TaskMetrics:
    """Makes them. `values`: where their numbers lie."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._families: list[MetricFamily[Any]] = []
        # Rows leave the line in threads of their own, and adding is no single step.
        self._lock = threading.Lock()
        self._changes = 0
        self._page: tuple[int, Callable[[], str]] | None = None

    def counter(self, name: str, text: str, label: str = "") -> MetricFamily[Counter]:
        """Counters with the label `task` and this one."""
        return self._family("counter", name, text, label, lambda: Counter(self._lock, self._values.allocate(1)))

    def gauge(self, name: str, text: str) -> MetricFamily[Gauge]:
        """Gauges with the label `task`."""
        return self._family("gauge", name, text, "", lambda: Gauge(self._values.allocate(1)))

    def histogram(self, name: str, text: str, bounds: Sequence[float], label: str = "") -> MetricFamily[Histogram]:
        """Histograms with the label `task` and this one."""

        def make() -> Histogram:
            return Histogram(self._lock, self._values.allocate(len(bounds) + 2), bounds)

        return self._family("histogram", name, text, label, make, bounds)

    def remove(self, task: str) -> None:
        """The series of a task are gone."""
        for family in self._families:
            family.remove(task)

    def page(self) -> str:
        """All of them in Prometheus' text format."""
        laid_out = self._page
        if laid_out is None or laid_out[0] != self._changes:
            laid_out = self._page = self._changes, self._render_template()
        return laid_out[1]()

    def _family(
        self, kind: str, name: str, text: str, label: str, make: Callable[[], _Child], bounds: Sequence[float] = ()
    ) -> MetricFamily[_Child]:
        family = MetricFamily(kind, name, text, label, make, self._changed, bounds)
        self._families.append(family)
        return family

    def _changed(self) -> None:
        self._changes += 1

    def _render_template(self) -> Callable[[], str]:
        # Of each family at one moment: a task may come or go meanwhile.
        found = [(family, list(family.children.items())) for family in self._families]
        lines = [line for family, children in found for line in family.lines(key for key, _ in children)]
        cells = [[child.cell for _, child in children] for _, children in found]
        read = self._values.reader(list(chain.from_iterable(cells)))
        ends = np.cumsum([sum(map(len, own)) for own in cells])[:-1]

        def page() -> str:
            parts = zip(self._families, np.split(read(), ends), strict=False)
            samples = np.concatenate([family.samples(numbers) for family, numbers in parts]).tolist()
            return "".join([f"{before}{number}\n" for before, number in zip(lines, samples, strict=True)])

        return page
