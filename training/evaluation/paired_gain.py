"""Paired gain: how much better one system's answers are than another's to the same examples, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_NUM_RESAMPLES = 100

Score = Callable[[Sequence[int]], float]
"""A system's metric on some of the examples, given by their indices, which may repeat."""


@dataclass(frozen=True, slots=True)
class PairedGain:
    """A metric of two systems on the same examples, and the standard error of the difference."""

    metric: str
    before: float
    after: float
    error: float

    @property
    def is_sure(self) -> bool:
        """Whether the second system is better by more than one standard error."""
        return self.after - self.before > self.error

    def __str__(self) -> str:
        return (
            f"{self.metric} {self.before:.4f} to {self.after:.4f}, {self.after - self.before:+.4f} ± {self.error:.4f}"
        )


def paired_gain(metric: str, before: Score, after: Score, num_examples: int) -> PairedGain:
    """The gain in any metric over examples, with its error by the paired bootstrap.

    Both systems are scored on the same resamples, so that what is hard for both does not count as noise. For a mean over
    examples this is the standard error of the mean difference. Sources: Efron & Tibshirani, "An Introduction to the
    Bootstrap", 1993; Koehn, "Statistical Significance Tests for Machine Translation Evaluation", EMNLP 2004.
    """
    generator = np.random.default_rng(0)
    resamples = generator.integers(num_examples, size=(_NUM_RESAMPLES, num_examples)).tolist()
    differences = [after(resample) - before(resample) for resample in resamples]
    everything = range(num_examples)
    return PairedGain(metric, before(everything), after(everything), float(np.std(differences, ddof=1)))
