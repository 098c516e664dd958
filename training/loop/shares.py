"""Shares: how often each task is drawn, with a floor and a cap.

Sources: temperature and cap as in Hyperformer and jiant; annealed as in Stickland & Murray, "BERT and PALs", 2019; most
passes over a task as in Chung et al., "UniMax", 2023. Task-uncertainty and fewest passes are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from polytask.training.loop.uncertainty import Entropy
from polytask.training.recipes.schema import SamplerConfig, SamplerName

_MIN_DRAWS = 100
_MIN_ENTROPY = 0.1
"""For task-uncertainty: a task of which the network is sure is still drawn."""


def task_shares(sizes: Sequence[int], config: SamplerConfig, progress: float = 0.0) -> list[float]:
    """The probability of each task, given the tasks' numbers of examples and the run's progress, 0 to 1.

    Proportional: n_t / sum. Uniform: 1 / T. Temperature (tau): min(n_t, cap) ** (1 / tau), normalised. Annealed:
    n_t ** (1 - 0.8 * progress), normalised: from proportional towards uniform. Task-uncertainty starts from temperature.
    """
    match config.name:
        case SamplerName.UNIFORM:
            power = 0.0
        case SamplerName.TEMPERATURE | SamplerName.TASK_UNCERTAINTY:
            power = 1 / config.temperature
        case SamplerName.ANNEALED:
            power = 1 - 0.8 * progress
        case _:
            power = 1.0
    weights = [min(size, config.cap) ** power for size in sizes]
    return [weight / sum(weights) for weight in weights]


def bounded_shares(shares: Sequence[float], sizes: Sequence[int], config: SamplerConfig, num_draws: int) -> list[float]:
    """The shares with a floor under each task and a cap over it; the tasks between them give way in proportion.

    A task gets at least `min_passes` over its examples in a run of `num_draws`, and at least as many draws as it has
    examples and 100, though for the latter never more than a tenth of an equal share. It gets at most `max_passes`. Where
    all floors together are too much for the run, or all caps too little, each gets its part of them.
    """
    floors = [
        max(config.min_passes * size / num_draws, min(max(size, _MIN_DRAWS) / num_draws, 0.1 / len(sizes)))
        for size in sizes
    ]
    floors = _scaled(floors) if sum(floors) >= 1 else floors
    caps = [math.inf if config.max_passes is None else config.max_passes * size / num_draws for size in sizes]
    caps = [max(pair) for pair in zip(floors, caps, strict=True)]
    caps = _scaled(caps) if sum(caps) <= 1 else caps
    # Bounds are set task by task, those of the side that is further out first: then none is wrong later.
    bound: dict[int, float] = {}
    while True:
        free = [task for task in range(len(shares)) if task not in bound]
        left = 1 - sum(bound.values())
        total = sum(shares[task] for task in free)
        result = {task: left * shares[task] / total for task in free}
        low = {task: floors[task] for task in free if result[task] < floors[task]}
        high = {task: caps[task] for task in free if result[task] > caps[task]}
        if not low and not high:
            if not bound:
                return list(shares)  # to the bit
            return [bound[task] if task in bound else result[task] for task in range(len(shares))]
        missing = sum(floors[task] - result[task] for task in low)
        spare = sum(result[task] - caps[task] for task in high)
        bound |= low if missing >= spare else high


def _scaled(shares: Sequence[float]) -> list[float]:
    return [share / sum(shares) for share in shares]


def planned_draws(sizes: Sequence[int], config: SamplerConfig, num_draws: int) -> list[int] | None:
    """About how many of `num_draws` examples a run draws of each task; None if the network decides it while it learns."""
    if config.name in {SamplerName.MT_UNCERTAINTY, SamplerName.TASK_UNCERTAINTY}:
        return None
    steps = 100  # the shares may change in the course of the run
    shares = [
        bounded_shares(task_shares(sizes, config, (step + 0.5) / steps), sizes, config, num_draws)
        for step in range(steps)
    ]
    return [round(num_draws * sum(task) / steps) for task in zip(*shares, strict=True)]


def uncertainty_shares(shares: Sequence[float], means: Sequence[Entropy]) -> list[float]:
    """The tasks' shares times their mean entropies, normalised. A task without entropy (regression) keeps its share."""
    weights = [
        None if mean is None else share * max(mean, _MIN_ENTROPY) for share, mean in zip(shares, means, strict=True)
    ]
    measured = sum(share for share, weight in zip(shares, weights, strict=True) if weight is not None)
    total = sum(weight for weight in weights if weight is not None)
    return [
        share if weight is None else weight / total * measured for share, weight in zip(shares, weights, strict=True)
    ]
