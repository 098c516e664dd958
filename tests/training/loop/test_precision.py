"""Precision: which one is chosen, and that measuring it leaves no trace."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest
import torch

from polytask.training.data.examples import EncodedExample
from polytask.training.loop.precision import is_faster_in_bf16
from tests.training.conftest import Workshop
from tests.training.support import toy
from tests.training.support.runs import start


@pytest.mark.parametrize("is_slow", [True, False])
def test_the_faster_precision_is_chosen(workshop: Workshop, is_slow: bool) -> None:
    """Bfloat16 is chosen where its steps take clearly less time, once each has been warmed up."""
    seen: list[bool] = []

    def step(batch: Sequence[EncodedExample], bf16: bool) -> None:
        assert batch
        seen.append(bf16)
        is_first = seen.count(bf16) <= 3
        _compute_for(0.02 if is_first or bf16 is is_slow else 0.001)

    faster = is_faster_in_bf16(step, workshop.examples, workshop.recipe, torch.device("cpu"))
    assert faster is not is_slow
    assert seen.count(True) == seen.count(False)


def _compute_for(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_choosing_changes_nothing(workshop: Workshop) -> None:
    """A training that has chosen its precision takes the same steps to the bit as one that has not."""
    recipe = toy.recipe(workshop.folder / "backbone", sampler={"name": "mt-uncertainty", "amortised": True})
    losses = []
    for chooses in (False, True):
        training = start(workshop, recipe)
        random.seed(4)
        if chooses:
            training.choose_precision()
        assert training.bf16 is False
        losses.append([list(training.step().losses) for _ in range(4)])
    assert losses[0] == losses[1]
