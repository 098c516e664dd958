"""How large a batch may be: the device is timed at the start, and the token budget set so that a batch takes so long.

What is timed is what a batch takes from rows to logits, for rows of a few lengths and ever more of them, until it is
longer than the target. Each time is the least of a few, as nothing but the work itself is in all of them. The token
budget is what the device does in the target's time, at the length at which that is least. Besides, what a forward
costs by itself is what a batch of short rows takes beyond its tokens, at the rate of the largest batch of these.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_LENGTHS = (32, 128)
"""Of the rows that are timed, beside the longest that there may be."""

_REPEATS = 4
_ENOUGH = 4
"""A shape is run so often, or at least twice until that many times the target have passed."""

_LEAST_FORWARD_TOKENS = 16
"""For what is not timed: taking a batch and answering its rows."""

Seconds = Callable[[int, int], float]
"""How long a batch takes, of so many rows of such a length. Raises MemoryError where it does not fit."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was found. `token_budget`: at least 1. `forward_tokens`: what a forward costs by itself, in tokens."""

    token_budget: int
    forward_tokens: int


def calibrate(seconds: Seconds, *, longest: int, max_rows: int, target_s: float, most_tokens: int) -> Calibration:
    """The largest token budget, up to `most_tokens`, whose batches of up to `max_rows` rows take `target_s` at most."""
    lengths = sorted({min(length, longest) for length in (*_LENGTHS, longest)})
    measured = {length: _measure(seconds, length, max_rows, target_s, most_tokens) for length in lengths}
    # Where even the most rows take less than the target, this length does not limit the budget.
    within = [_tokens_within(times, target_s) for times in measured.values()]
    budget = min((tokens for tokens in within if tokens is not None), default=min(most_tokens, max_rows * longest))
    return Calibration(max(1, min(budget, most_tokens)), _forward_tokens(measured[lengths[0]]))


def least_of_some(run: Callable[[], object], target_s: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """The least that `run` took, in seconds, of a few times."""
    times: list[float] = []
    while len(times) < _REPEATS and (len(times) < 2 or sum(times) < _ENOUGH * target_s):
        started = clock()
        run()
        times.append(clock() - started)
    return min(times)


def _measure(
    seconds: Seconds, length: int, max_rows: int, target_s: float, most_tokens: int
) -> Sequence[tuple[int, float]]:
    """Tokens and seconds of ever larger batches, up to the first that takes too long or is the largest there may be."""
    times: list[tuple[int, float]] = []
    rows = 1
    while True:
        try:
            times.append((rows * length, seconds(rows, length)))
        except MemoryError:
            # As good as too slow. One row has to fit, or nothing can be served.
            if not times:
                raise
            return [*times, (times[-1][0] + 1, float("inf"))]
        if times[-1][1] > target_s or rows == max_rows or rows * length >= most_tokens:
            return times
        rows = min(2 * rows, max_rows)


def _tokens_within(times: Sequence[tuple[int, float]], target_s: float) -> int | None:
    """How many tokens take the target's time, between the last two measured; None where the last take less."""
    tokens, too_long = times[-1]
    if too_long <= target_s:
        return None
    if len(times) == 1:
        return int(tokens * target_s / too_long)
    fewer, less = times[-2]
    return int(fewer + (tokens - fewer) * (target_s - less) / (too_long - less))


def _forward_tokens(times: Sequence[tuple[int, float]]) -> int:
    """What remains of the time of the smallest batch when its tokens are taken off, in tokens."""
    finite = [(tokens, taken) for tokens, taken in times if taken != float("inf")]
    (fewest, least), (most, longest) = finite[0], finite[-1]
    if longest <= least:
        return most
    beyond = least * (most - fewest) / (longest - least) - fewest
    return min(most, max(_LEAST_FORWARD_TOKENS, round(beyond)))
