"""Class bias: numbers added to a classification's logits after training, so that its rare labels are said.

Logit adjustment (Menon et al., ICLR 2021, arXiv:2007.07314), after training: tau * log prior is taken from the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from polytask.training.evaluation.paired_gain import paired_gain

Values = NDArray[np.float64]
Ids = NDArray[np.int64]
Score = Callable[[Ids, Ids], float]
"""The metric of right and given label ids."""

FEWEST_EXAMPLES = 50
"""Examples below which nothing is chosen: a change of one answer is then worth two points."""

_TAUS = np.arange(1, 21) / 10
_QUANTILES = np.arange(1, 40) / 40
_FOLDS = 5


def choose_class_bias(logits: Values, targets: Ids, counts: Ids, score: Score) -> Values:
    """The number to add to each label's logit, [labels]; zeros unless the score rises by more than its noise.

    `logits`: [examples, labels] of examples that no update has seen, `targets`: [examples]. `counts`: training examples of
    each label. There is one parameter, however many labels: tau, or of two labels the difference from which the second
    is given, at every fortieth of the examples. One for each label would fit a slice of a thousand examples instead of
    the task. It is kept if it raises the score of examples that it was not chosen on, in five parts, by more
    than one standard error of that rise; by chance alone, it is kept one time in six, and then moves little.
    """
    unchanged = np.zeros(logits.shape[1])
    if len(targets) < FEWEST_EXAMPLES:
        return unchanged
    given, adjusted = logits.argmax(axis=1), np.empty_like(targets)
    folds = _stratified(targets)
    for fold in range(_FOLDS):
        kept = folds == fold
        bias = _best(logits[~kept], targets[~kept], counts, score)
        adjusted[kept] = (logits[kept] + bias).argmax(axis=1)
    gain = paired_gain(
        "score",
        lambda drawn: score(targets[drawn], given[drawn]),
        lambda drawn: score(targets[drawn], adjusted[drawn]),
        len(targets),
    )
    if not gain.is_sure:
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


def _stratified(targets: Ids) -> Ids:
    """The fold of each example, with equal shares of every label."""
    shuffled = np.random.default_rng(0).permutation(len(targets))
    folds = np.empty_like(targets)
    folds[shuffled[np.argsort(targets[shuffled], kind="stable")]] = np.arange(len(targets)) % _FOLDS
    return folds
