"""Length of a run: the number of examples by passes or by the tasks' sizes, and the limit in minutes.

Without a number in the recipe there are about sqrt(n * 40,000) draws for a task of n examples: each of 100 is drawn 20
times, of 4,000 three times, of a million one in five is drawn. So ten times the data are three times the training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from polytask.training.recipes.schema import LengthConfig, RecipeError, SamplerConfig

_DRAWN_ONCE = 40_000
"""Size of a task whose examples are each drawn once."""
_MOST_PASSES = 20
_MINUTES = 10.0
_PATIENCE = 4


def planned_examples(sizes: Sequence[int], sampler: SamplerConfig, length: LengthConfig) -> int:
    """The number of examples that a run draws if neither the limit in minutes nor `patience` ends it earlier.

    `sizes`: number of examples by task.
    """
    if length.examples is not None:
        return length.examples
    if length.passes is not None:
        return max(1, round(length.passes * sum(sizes)))
    least, most = sampler.min_passes, _MOST_PASSES if sampler.max_passes is None else sampler.max_passes
    return round(sum(min(most * size, max(least * size, math.sqrt(size * _DRAWN_ONCE))) for size in sizes))


def check_passes(sizes: Sequence[int], sampler: SamplerConfig, length: LengthConfig) -> None:
    """Raises RecipeError if the run is too short for `min_passes` over every task, or too long for `max_passes`."""
    planned, size = planned_examples(sizes, sampler, length), sum(sizes)
    for key, passes, is_wrong in (
        ("min_passes", sampler.min_passes, planned < sampler.min_passes * size),
        ("max_passes", sampler.max_passes or math.inf, planned > (sampler.max_passes or math.inf) * size),
    ):
        if is_wrong:
            raise RecipeError(
                f"sampler.{key}: {passes:g} passes over the {size:,} training examples are {passes * size:,.0f} draws, but "
                f"the run has {planned:,}; change it, or `examples` or `passes` in [length]"
            )


def limit_seconds(length: LengthConfig) -> float:
    """The most seconds of training; infinite without a limit."""
    default = _MINUTES if length.is_chosen_by_run else 0.0
    return 60 * (default if length.minutes is None else length.minutes) or math.inf


def patience(length: LengthConfig) -> int:
    """The number of evaluations on selection without a better mean score after which a run ends; 0: never."""
    default = _PATIENCE if length.is_chosen_by_run else 0
    return default if length.patience is None else length.patience


def length_line(length: LengthConfig, planned: int) -> str:
    """How long the run will be, for people."""
    line = f"trains on {planned:,} examples"
    if (seconds := limit_seconds(length)) < math.inf:
        line += f", for {seconds / 60:g} minutes at most (`minutes` in [length])"
    if patience(length):
        line += f"; ends earlier if {patience(length)} tenths of the run are no better on selection"
    return line
