"""How large a batch may be: the device is timed at the start, and the token budget set so that a batch takes so long.

What is timed is what a batch takes from rows to logits, for rows of a few lengths and ever more of them, until it is
longer than the target. Each time is the least of a few, as nothing but the work itself is in all of them. The token
budget is what the device does in the target's time, at the length at which that is least; but no less than the longest
row, which has to be run whatever it takes, and which no batch of as many tokens in shorter rows takes longer than. So a
start on a busy machine does no lasting harm. Besides, what a forward costs by itself is what a batch of short rows takes
beyond its tokens, at the rate of the largest batch of these.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_LENGTHS = (32, 128)
"""Of the rows that are timed, beside the longest that there may be."""

_REPEATS = 4
_ENOUGH_TARGETS = 4
"""A shape is run so often, or at least twice until that many times the target have passed."""

_LEAST_FORWARD_TOKENS = 16
"""For what is not timed: taking a batch and answering its rows."""

Seconds = Callable[[int, int], float]
"""How long a batch takes, of so many rows of such a length. Raises MemoryError where it does not fit."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was found. `forward_tokens`: what a forward costs by itself, in tokens."""

    token_budget: int
    forward_tokens: int


def calibrate(seconds: Seconds, *, longest: int, max_rows: int, target_s: float, most_tokens: int) -> Calibration:
    """The largest token budget, from `longest` to `most_tokens`, whose batches take `target_s` at most.

    `longest`: tokens of the longest row. `max_rows`: in a batch.
    """
    lengths = sorted({min(length, longest) for length in (*_LENGTHS, longest)})
    measured = {length: _measure(seconds, length, longest, max_rows, target_s, most_tokens) for length in lengths}
    # Where even the most rows take less than the target, this length does not limit the budget.
    within = [_tokens_within(times, target_s) for times in measured.values()]
    budget = min((tokens for tokens in within if tokens is not None), default=min(most_tokens, max_rows * longest))
    return Calibration(min(max(budget, longest), most_tokens), _forward_tokens(measured[lengths[0]]))


def best_of_repeats(
    run: Callable[[], object], target_s: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The least that `run` took, in seconds, of a few times."""
    times: list[float] = []
    while len(times) < _REPEATS and (len(times) < 2 or sum(times) < _ENOUGH_TARGETS * target_s):
        started = clock()
        run()
        times.append(clock() - started)
    return min(times)


def _measure(
    seconds: Seconds, length: int, longest: int, max_rows: int, target_s: float, most_tokens: int
) -> Sequence[tuple[int, float]]:
    """Tokens and seconds of ever larger batches, until one takes too long or is the largest there may be.

    In any case up to as many tokens as the longest row has, as such batches will be run.
    """
    times: list[tuple[int, float]] = []
    rows = 1
    while True:
        tokens = rows * length
        try:
            times.append((tokens, seconds(rows, length)))
        except MemoryError:
            # As good as too slow. One row has to fit, or nothing can be served.
            if not times:
                raise
            return [*times, (times[-1][0] + 1, math.inf)]
        if rows == max_rows or tokens >= most_tokens or (times[-1][1] > target_s and tokens >= longest):
            return times
        rows = min(2 * rows, max_rows)


def _tokens_within(times: Sequence[tuple[int, float]], target_s: float) -> int | None:
    """How many tokens take the target's time, between two that were measured; None where none take longer."""
    fewer, less = 0, 0.0
    for tokens, taken in times:
        if taken > target_s:
            return int(fewer + (tokens - fewer) * (target_s - less) / (taken - less))
        fewer, less = tokens, taken
    return None


def _forward_tokens(times: Sequence[tuple[int, float]]) -> int:
    """What remains of the time of the smallest batch when its tokens are taken off, in tokens."""
    finite = [(tokens, taken) for tokens, taken in times if math.isfinite(taken)]
    (fewest, least), (most, longest) = finite[0], finite[-1]
    if longest <= least:
        return most
    beyond = least * (most - fewest) / (longest - least) - fewest
    return min(most, max(_LEAST_FORWARD_TOKENS, round(beyond)))
