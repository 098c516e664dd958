"""Calibration: measures the device at the start and sets the token budget so that a batch takes the target time.

Batches of a few row lengths are timed from rows to logits, with more and more rows, until one takes longer than the
target. Each time is the minimum of a few runs, as only the work itself is part of all of them. The token budget is the
largest number of tokens that every measured length can process within the target time. It is never below the longest
row: that must run anyway, and no batch of as many tokens in shorter rows takes longer. So a start on a busy machine does
no lasting harm. The fixed cost of a forward is the time of a batch of short rows that its tokens do not explain, at the
rate of the largest batch of such rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_LENGTHS = (32, 128)
"""Row lengths that are timed, besides the longest possible."""

_REPEATS = 4
_ENOUGH_TARGETS = 4
"""A shape is run `_REPEATS` times, or at least twice until `_ENOUGH_TARGETS` times the target have passed."""

_LEAST_S = 1e-6
"""Of a run, whatever the clock says."""

_LEAST_FORWARD_TOKENS = 16
"""For work that is not timed: taking a batch and answering its rows."""

Seconds = Callable[[int, int], float]
"""Number of rows and their length to the seconds of such a batch. Raises MemoryError where it does not fit."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The result. `forward_tokens`: the fixed cost of a forward, in tokens. `speed`: the highest, `BatchLimits.work` a second."""

    token_budget: int
    forward_tokens: int
    speed: float


def calibrate(seconds: Seconds, *, longest: int, max_rows: int, target_s: float, most_tokens: int) -> Calibration:
    """The largest token budget, from `longest` to `most_tokens`, whose batches take `target_s` at most.

    `longest`: tokens of the longest row. `max_rows`: in a batch.
    """
    lengths = sorted({min(length, longest) for length in (*_LENGTHS, longest)})
    measured = {length: _measure(seconds, length, longest, max_rows, target_s, most_tokens) for length in lengths}
    # None: even the most rows of this length take less than the target, so it does not limit the budget.
    tokens_within_target = [_tokens_within(times, target_s) for times in measured.values()]
    budget = min(
        (tokens for tokens in tokens_within_target if tokens is not None), default=min(most_tokens, max_rows * longest)
    )
    forward_tokens = _forward_tokens(measured[lengths[0]])
    speed = max((forward_tokens + tokens) / taken for times in measured.values() for tokens, taken in times)
    return Calibration(min(max(budget, longest), most_tokens), forward_tokens, speed)


def best_of_repeats(
    run: Callable[[], object], target_s: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The shortest time of a few runs, in seconds."""
    times: list[float] = []
    while len(times) < _REPEATS and (len(times) < 2 or sum(times) < _ENOUGH_TARGETS * target_s):
        started = clock()
        run()
        times.append(max(clock() - started, _LEAST_S))
    return min(times)


def _measure(
    seconds: Seconds, length: int, longest: int, max_rows: int, target_s: float, most_tokens: int
) -> Sequence[tuple[int, float]]:
    """Tokens and seconds of larger and larger batches, until one takes too long or is the largest possible.

    Always up to the number of tokens of the longest row, as such batches will be run.
    """
    times: list[tuple[int, float]] = []
    rows = 1
    while True:
        tokens = rows * length
        try:
            times.append((tokens, seconds(rows, length)))
        except MemoryError:
            # As if it were too slow. One row must fit, or nothing can be served.
            if not times:
                raise
            return [*times, (times[-1][0] + 1, math.inf)]
        if rows == max_rows or tokens >= most_tokens or (times[-1][1] > target_s and tokens >= longest):
            return times
        rows = min(2 * rows, max_rows)


def _tokens_within(times: Sequence[tuple[int, float]], target_s: float) -> int | None:
    """Tokens that take the target time, interpolated between two measurements; None where no batch takes longer."""
    fewer, less = 0, 0.0
    for tokens, taken in times:
        if taken > target_s:
            return int(fewer + (tokens - fewer) * (target_s - less) / (taken - less))
        fewer, less = tokens, taken
    return None


def _forward_tokens(times: Sequence[tuple[int, float]]) -> int:
    """The time of the smallest batch that its own tokens do not explain, in tokens."""
    finite = [(tokens, taken) for tokens, taken in times if math.isfinite(taken)]
    (fewest, least), (most, longest) = finite[0], finite[-1]
    if longest <= least:
        return most
    beyond = least * (most - fewest) / (longest - least) - fewest
    return min(most, max(_LEAST_FORWARD_TOKENS, round(beyond)))
