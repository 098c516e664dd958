"""Class bias: it makes rare labels be said where that raises the metric by more than noise, and is none elsewhere."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from polytask.training.evaluation.metrics import score_labels
from polytask.training.publishing.class_bias import Ids, Values, choose_class_bias


def _accuracy(right: Ids, given: Ids) -> float:
    return float(np.mean(right == given))


def _head(shares: tuple[float, ...], knowledge: float, seed: int, count: int = 500) -> tuple[Values, Ids, Ids]:
    """Logits that know the label, and say how frequent it is; the right labels; and how many training examples have each."""
    generator = np.random.default_rng(seed)
    targets = generator.choice(len(shares), count, p=shares)
    logits = np.log(shares) + generator.normal(size=(count, len(shares)))
    logits[np.arange(count), targets] += knowledge
    return logits, targets, np.array([round(share * 5000) for share in shares])


@pytest.mark.parametrize("metric", ["macro_f1", "matthews"])
@pytest.mark.parametrize("shares", [(0.9, 0.1), (0.8, 0.15, 0.05)])
@pytest.mark.parametrize("knowledge", [0.0, 2.0])
def test_a_bias_never_lowers_the_metric_that_it_is_chosen_for(
    metric: str, shares: tuple[float, ...], knowledge: float
) -> None:
    """On the examples that it is chosen on, the metric with the bias is higher, or there is no bias."""
    score = partial(score_labels, metric)
    logits, targets, counts = _head(shares, knowledge, seed=1, count=200)
    bias = choose_class_bias(logits, targets, counts, score)
    before, after = (score(targets, (logits + each).argmax(axis=1)) for each in (np.zeros(len(shares)), bias))
    assert after > before or not bias.any()


@pytest.mark.parametrize("shares", [(0.92, 0.08), (0.75, 0.2, 0.05)])
def test_a_rare_label_that_is_known_is_said(shares: tuple[float, ...]) -> None:
    """A head that knows a rare label and never says it says it with the bias, also of examples that it was not chosen on."""
    score = partial(score_labels, "macro_f1")
    logits, targets, counts = _head(shares, 1.5, seed=2)
    bias = choose_class_bias(logits, targets, counts, score)
    others, right, _ = _head(shares, 1.5, seed=3, count=5000)
    assert (others.argmax(axis=1) == len(shares) - 1).mean() < shares[-1] / 2
    assert score(right, (others + bias).argmax(axis=1)) > score(right, others.argmax(axis=1)) + 0.05


def test_a_head_that_knows_nothing_gets_none() -> None:
    """Of heads that know nothing, few get a bias by chance."""
    found = [choose_class_bias(*_uninformed(seed), _accuracy).any() for seed in range(40)]
    assert np.mean(found) < 0.25


def test_a_bias_is_the_same_every_time() -> None:
    """No choice depends on a global generator of random numbers."""
    head = _head((0.8, 0.15, 0.05), 1.5, seed=2)
    assert np.array_equal(choose_class_bias(*head, _accuracy), choose_class_bias(*head, _accuracy))


def _uninformed(seed: int) -> tuple[Values, Ids, Ids]:
    """Logits, right labels and counts that have nothing to do with each other; both labels are equally frequent."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(200, 2)), generator.integers(0, 2, 200), np.array([1000, 1000])


def test_of_few_examples_nothing_is_chosen() -> None:
    """Below fifty examples there is no bias."""
    logits, targets, counts = _head((0.9, 0.1), 1.5, seed=0, count=49)
    assert not choose_class_bias(logits, targets, counts, partial(score_labels, "macro_f1")).any()
