"""The warm-up: the largest shapes, and golden examples that must come out as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.model.answers import Logits
from polytask.model.encoding import Encoding, InputEncoder
from polytask.service.backends.forward import Forward
from polytask.service.engine.warmup import TOLERANCES, agree, check_goldens, warm_up, worst_shapes
from polytask.service.errors import StartupError
from polytask.service.scheduling.queue import BatchLimits
from tests.service.support import checkpoints
from tests.service.support.doubles import real_backend
from tests.support import tiny

LIMITS = BatchLimits(max_rows=8, token_budget=256, forward_tokens=32, max_waiting_tokens=1000)


def real_forward(noise: float = 0.0) -> Any:
    """The tiny network's logits, each off by about `noise`."""
    forward = Forward(real_backend(), tiny.tasks(), 0)
    random = np.random.default_rng(0)

    def run(task_ids: Sequence[int], encodings: Sequence[Encoding]) -> list[Logits]:
        return [
            np.asarray(logits + noise * random.standard_normal(logits.shape)) for logits in forward(task_ids, encodings)
        ]

    return run


def warm(noise: float = 0.0) -> None:
    """Warms the tiny network up with its goldens."""
    encoder = InputEncoder(tiny.tokenizer())
    warm_up(real_forward(noise), tiny.tasks(), encoder, checkpoints.goldens(), LIMITS, "float32")


def test_a_network_passes_with_its_own_goldens() -> None:
    """Golden answers of every kind are met by the network that gave them, and by one that is off by a rounding error."""
    warm()
    warm(noise=1e-5)


def test_wrong_answers_stop_the_start() -> None:
    """A device that computes something else does not get to serve; the message names the task."""
    with pytest.raises(StartupError, match=r"golden answer of task 'mood' within 0\.001"):
        warm(noise=0.1)


@pytest.mark.parametrize("task", [task.name for task in tiny.tasks()])
def test_a_wrong_answer_of_any_kind_is_seen(task: str) -> None:
    """Goldens of no kind are compared in vain."""
    encoder = InputEncoder(tiny.tokenizer())
    goldens = [golden for golden in checkpoints.goldens() if golden.task == task]
    with pytest.raises(StartupError, match=task):
        check_goldens(real_forward(0.5), tiny.tasks(), encoder, goldens, TOLERANCES["float32"])


def test_places_that_scores_decide_are_not_compared_again() -> None:
    """Two candidates that are all but equal may change places without being wrong."""
    encoder = InputEncoder(tiny.tokenizer())
    (golden,) = (golden for golden in checkpoints.goldens() if golden.task == "relevance")
    ranking = golden.answer["ranking"]
    swapped = replace(golden, answer={"ranking": (ranking[1], ranking[0], ranking[2])})
    check_goldens(real_forward(), tiny.tasks(), encoder, [swapped], 1e-3)


@given(st.integers(1, 300), st.integers(1, 5000))
def test_the_worst_shapes_are_the_largest_that_the_queue_lets_through(max_rows: int, token_budget: int) -> None:
    """No shape is over the limits but a single row; one has the longest row, and one has as many rows as can come."""
    shapes = worst_shapes(tiny.tasks(), replace(LIMITS, max_rows=max_rows, token_budget=token_budget))
    assert (1, 64) in shapes
    most_rows = max(num_rows for num_rows, _ in shapes)
    shortest = 2
    assert most_rows == max_rows or (most_rows + 1) * shortest > token_budget
    for num_rows, length in shapes:
        assert num_rows <= max_rows
        assert length <= 64
        assert num_rows == 1 or num_rows * length <= token_budget


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        ({"a": 0.5}, {"a": 0.5009}, True),
        ({"a": 0.5}, {"a": 0.502}, False),
        ({"a": 0.5}, {"b": 0.5}, False),
        ([0.5], [0.5, 0.5], False),
        ((0.5,), [0.5], True),
        (5.0, 5.004, True),
        (5.0, 5.006, False),
        ("x", "y", False),
        (3, 4, False),
        (0.5, float("nan"), False),
    ],
)
def test_answers_agree_within_the_tolerance(expected: Any, found: Any, same: bool) -> None:
    """Numbers may differ by the tolerance, or by that share of a value above 1; everything else may not differ."""
    assert agree(expected, found, 1e-3) is same
