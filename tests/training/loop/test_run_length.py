"""How a run ends: by its examples, by the clock, or because nothing gets better."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from polytask.training.loop.trainer import Training, ending_line, train
from polytask.training.runs.run_logger import RunLogger, Step
from tests.training.conftest import Workshop
from tests.training.support import toy
from tests.training.support.runs import quiet_logger, start


def test_the_clock_ends_a_run(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit in minutes the run ends, its learning rate has fallen to almost nothing, and it says so."""
    moments = iter(range(10**6))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(moments)))  # a second a step
    recipe = toy.recipe(workshop.folder / "backbone", length={"examples": 10**6, "minutes": 0.5})
    training, rates = start(workshop, recipe), list[float]()

    class Watching(RunLogger):
        def advance(self, step: Step) -> None:
            super().advance(step)
            rates.append(step.learning_rate)

    train(training, quiet_logger(training, Watching), tmp_path, lambda: ())
    assert 10 <= training.updates <= 35
    assert rates[-1] < 0.15 * max(rates)
    assert training.is_limited_by_time
    assert training.num_examples == training.examples
    assert "of 1,000,000 examples; ended by the limit of 0.5 minutes" in ending_line(training)


@pytest.mark.parametrize("patience", [0, 3])
def test_a_run_that_gets_no_better_ends(workshop: Workshop, tmp_path: Path, patience: int) -> None:
    """Without a better score a run ends after its patience with its best state; without patience it goes on to the end."""
    recipe = toy.recipe(workshop.folder / "backbone", length={"examples": 640, "patience": patience})
    training = start(workshop, recipe)
    seen = list[int]()

    def select() -> Iterator[None]:
        yield
        seen.append(training.examples)
        training.best.add(1 / len(seen), training.examples)

    train(training, quiet_logger(training), tmp_path, lambda: (), select)
    assert len(seen) == (4 if patience else 10)
    assert training.best.examples == (seen[0] if patience else None)
    assert ("got no better" in ending_line(training)) is bool(patience)
    again = _restored(workshop, training)
    assert (again.progress, again.num_examples) == (1, training.examples if patience else training.num_planned)


def _restored(workshop: Workshop, training: Training) -> Training:
    again = start(workshop, training.recipe)
    again.restore(training.snapshot())
    return again
