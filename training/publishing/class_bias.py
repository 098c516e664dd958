"""Class bias: numbers added to a classification's logits after training, so that its rare labels are said.

Logit adjustment (Menon et al., ICLR 2021, arXiv:2007.07314), after training: tau * log prior is taken from the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Ids = NDArray[np.int64]
Score = Callable[[Ids, Ids], float]
"""The metric of right and given label ids."""

FEWEST_EXAMPLES = 50
"""Examples below which nothing is chosen: a change of one answer is then worth two points."""

_TAUS = np.arange(1, 21) / 10
_QUANTILES = np.arange(1, 40) / 40
_FOLDS = 5
_RESAMPLES = 100


def choose_class_bias(logits: Values, targets: Ids, counts: Ids, score: Score) -> Values:
    """The number to add to each label's logit, [labels]; zeros unless the score rises by more than its noise.

    `logits`: [examples, labels] of examples that no update has seen, `targets`: [examples]. `counts`: training examples of
    each label. There is one parameter, however many labels: tau, or of two labels the difference from which the second
    is given, at every fortieth of the examples. One for each label would fit a slice of a thousand examples instead of
    the task. It is kept if it rises the score of examples that it was not chosen on, in five parts, by more
    than one standard error of that rise; by chance alone, it is kept one time in six, and then moves little.
    """
    unchanged = np.zeros(logits.shape[1])
    if len(targets) < FEWEST_EXAMPLES:
        return unchanged
    generator = np.random.default_rng(0)
    given, adjusted = logits.argmax(axis=1), np.empty_like(targets)
    folds = _stratified(targets, generator)
    for fold in range(_FOLDS):
        kept = folds == fold
        bias = _best(logits[~kept], targets[~kept], counts, score)
        adjusted[kept] = (logits[kept] + bias).argmax(axis=1)
    rise = score(targets, adjusted) - score(targets, given)
    if rise <= 0 or rise <= _standard_error(targets, given, adjusted, score, generator):
        return unchanged
    return _best(logits, targets, counts, score)


def _best(logits: Values, targets: Ids, counts: Ids, score: Score) -> Values:
    """The candidate of the best score; of equally good ones the first."""
    candidates = list(_candidates(logits, counts))
    scores = [score(targets, (logits + bias).argmax(axis=1)) for bias in candidates]
    return candidates[int(np.argmax(scores))]


def _candidates(logits: Values, counts: Ids) -> Iterator[Values]:
    """No bias first, then from the smallest on."""
    yield np.zeros(logits.shape[1])
    if logits.shape[1] == 2:
        # Not in steps of a fixed size: a network that has learnt little has all its differences in a tenth of a logit.
        differences = np.quantile(logits[:, 1] - logits[:, 0], _QUANTILES)
        for difference in sorted(differences, key=abs):
            yield np.array([difference / 2, -difference / 2])
    else:
        log_prior = np.log((counts + 1) / (counts.sum() + len(counts)))
        for tau in _TAUS:
            for sign in (1, -1):  # with weighted losses the frequent labels may be said too rarely
                yield -sign * tau * (log_prior - log_prior.mean())


def _stratified(targets: Ids, generator: np.random.Generator) -> Ids:
    """The fold of each example, with equal shares of every label."""
    shuffled = generator.permutation(len(targets))
    folds = np.empty_like(targets)
    folds[shuffled[np.argsort(targets[shuffled], kind="stable")]] = np.arange(len(targets)) % _FOLDS
    return folds


def _standard_error(targets: Ids, before: Ids, after: Ids, score: Score, generator: np.random.Generator) -> float:
    """The standard error of the score's rise from `before` to `after`, by a paired bootstrap over the examples."""
    rises = []
    for _ in range(_RESAMPLES):
        drawn = generator.integers(0, len(targets), len(targets))
        rises.append(score(targets[drawn], after[drawn]) - score(targets[drawn], before[drawn]))
    return float(np.std(rises))
