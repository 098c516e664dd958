"""Best state: the weights that are kept, and when a run should end."""

from __future__ import annotations

import json

import torch
from torch import nn

from polytask.training.loop.best_state import BestState


def _after(scores: list[float], patience: int) -> tuple[BestState, nn.Parameter]:
    """The best state after weights of 1, 2, 3 ... had these scores; it holds 9 now."""
    weight = nn.Parameter(torch.zeros(2))
    best = BestState([weight], patience)
    for index, score in enumerate(scores, start=1):
        weight.data.fill_(index)
        best.add(score, 10 * index)
    weight.data.fill_(9)
    return best, weight


def test_the_weights_with_the_best_score_come_back() -> None:
    """Of all weights those with the highest score are kept, of equal ones the last."""
    best, weight = _after([0.2, 0.7, 0.7, 0.1], patience=4)
    assert best.examples == 30
    best.apply()
    assert weight.tolist() == [3, 3]


def test_a_run_ends_after_its_patience() -> None:
    """A run should end after as many evaluations in a row with a lower score as it has patience."""
    exhausted = [_after([0.2, 0.7, 0.7, 0.1, 0.6, 0.5, 0.8][:count], patience=3)[0].is_exhausted for count in range(8)]
    assert exhausted == [False, False, False, False, False, False, True, False]


def test_a_score_that_stands_still_ends_a_run_if_it_is_perfect() -> None:
    """A head that says one label for long, with a correlation of 0, has time; where nothing is left to learn a run ends."""
    assert not _after([0.0] * 9, patience=3)[0].is_exhausted
    assert _after([1.0] * 4, patience=3)[0].is_exhausted


def test_without_patience_nothing_is_kept() -> None:
    """With patience 0 no weights are kept and a run never ends early."""
    best, weight = _after([0.5, 0.4, 0.3], patience=0)
    best.apply()
    assert (best.examples, best.weights, best.is_exhausted) == (None, [], False)
    assert weight.tolist() == [9, 9]


def test_a_state_goes_on() -> None:
    """Restored from JSON and its weights, a best state goes on as the first one does."""
    best, _ = _after([0.2, 0.7, 0.1], patience=2)
    weight = nn.Parameter(torch.zeros(2))
    other = BestState([weight], 2)
    other.restore(json.loads(json.dumps(best.state())), best.weights)
    other.add(0.6, 40)
    assert other.is_exhausted
    other.apply()
    assert weight.tolist() == [2, 2]
