"""Golden check: right answers pass, wrong ones are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from polytask.model.answers import Logits
from polytask.model.encoding import Encoding, InputEncoder
from polytask.model_store.manifest import Golden
from polytask.service.backends.forward import Forward
from polytask.service.engine.golden_check import TOLERANCES, agree, check_goldens
from polytask.service.errors import StartupError
from tests.service.support import checkpoints
from tests.service.support.doubles import real_backend
from tests.support import tiny


def real_forward(noise: float = 0.0) -> Any:
    """The tiny network's logits, each off by about `noise`."""
    forward = Forward(real_backend(), tiny.tasks(), 0)
    random = np.random.default_rng(0)

    def run(task_ids: Sequence[int], encodings: Sequence[Encoding]) -> list[Logits]:
        return [
            np.asarray(logits + noise * random.standard_normal(logits.shape)) for logits in forward(task_ids, encodings)
        ]

    return run


def check(goldens: Sequence[Golden], noise: float = 0.0) -> None:
    """Checks the goldens with the tiny network in float32."""
    check_goldens(real_forward(noise), tiny.tasks(), InputEncoder(tiny.tokenizer()), goldens, TOLERANCES["float32"])


def test_a_network_passes_with_its_own_goldens() -> None:
    """The network that gave the golden answers passes, and so does one with rounding errors."""
    check(checkpoints.goldens())
    check(checkpoints.goldens(), noise=1e-5)


def test_wrong_answers_are_refused() -> None:
    """A device that computes other answers is refused; the message names the task."""
    with pytest.raises(StartupError, match=r"golden answer of task 'mood' within 0\.001"):
        check(checkpoints.goldens(), noise=1.0)


@pytest.mark.parametrize("task", [task.name for task in tiny.tasks()])
def test_a_wrong_answer_of_any_kind_is_seen(task: str) -> None:
    """The comparison finds a wrong answer to a task of any kind."""
    goldens = [golden for golden in checkpoints.goldens() if golden.task == task]
    with pytest.raises(StartupError, match=task):
        check(goldens, noise=0.5)


def test_the_order_of_equal_candidates_is_not_compared() -> None:
    """Two candidates that are all but equal may change places without being wrong."""
    (golden,) = (golden for golden in checkpoints.goldens() if golden.task == "relevance")
    ranking = golden.answer["ranking"]
    swapped = replace(golden, answer={"ranking": (ranking[1], ranking[0], ranking[2])})
    check([swapped])


@pytest.mark.parametrize(
    ("expected", "answered", "same"),
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
def test_answers_agree_within_the_tolerance(expected: Any, answered: Any, same: bool) -> None:
    """Numbers may differ by the tolerance, relative for values above 1; everything else must be equal."""
    assert agree(expected, answered, 1e-3) is same
