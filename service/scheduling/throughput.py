"""Throughput: the speed of the device, from its last batches, and the share that each task had of them.

Speed is work per second. The work of a batch is its tokens and the fixed cost of a forward (`BatchLimits.work`), so that
few, many, short and long rows give the same speed.

- The *present speed* is that of the last batches without the slowest of them: when the machine stands still, one batch on
  each stream takes long, which says nothing about the next ones. After some idle seconds there is none.
- The *highest speed* is the higher one of that measured at the start and those of many full batches. It stands for the
  present speed while there is none, as after an idle time: what was slow then need not be slow now.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from polytask.service.scheduling.batch_selection import BatchLimits
from polytask.service.scheduling.task_queue import Row

_BATCHES = 20
"""Batches of each stream that count."""

_PRESENT_S, _PRESENT_TIMES = 10.0, 3.0
"""Batches count if they ended in so many seconds, or in so many times what the last one took if that is longer."""

_CERTAIN_S = 60.0
"""Seconds without a batch after which the highest speed proves nothing: the machine may have become faster."""


class _Batch(NamedTuple):
    """A batch that has ended. `seconds`: for which it would have occupied the whole device."""

    ended: float
    work: float
    seconds: float
    tokens: Counter[int]


class ThroughputEstimator:
    """Measures batches of a device that runs `num_streams` of them side by side. Callers pass the time, in seconds."""

    def __init__(self, num_streams: int = 1) -> None:
        self._num_streams = num_streams
        self._batches: deque[_Batch] = deque()
        # Of these batches together, as each request asks for a share.
        self._tokens: Counter[int] = Counter()
        self._speed: float | None = None
        self._highest: float | None = None
        self._measured_at = 0.0
        self._present_s = _PRESENT_S

    def start(self, speed: float | None, now: float) -> None:
        """Takes the speed of one stream that was measured at the start; None if none was."""
        self._highest, self._measured_at = speed and speed * self._num_streams, now

    def record(self, rows: Iterable[Row[Any]], seconds: float, limits: BatchLimits, now: float) -> None:
        """Records a batch that has just ended, after `seconds` on one stream."""
        tokens: Counter[int] = Counter()
        for row in rows:
            tokens[row.task_id] += row.num_tokens
        work = limits.forward_tokens + tokens.total()
        self._batches.append(_Batch(now, work, max(seconds, 1e-6) / self._num_streams, tokens))
        self._tokens.update(tokens)
        self._measured_at, self._present_s = now, max(_PRESENT_S, _PRESENT_TIMES * seconds)
        most = _BATCHES * self._num_streams
        while len(self._batches) > most or now - self._batches[0].ended > self._present_s:
            self._tokens.subtract(self._batches.popleft().tokens)
        self._speed = self._measured_speed()
        full_batches = sum(batch.work for batch in self._batches) / (limits.forward_tokens + limits.token_budget)
        if self._speed is not None and full_batches > most / 2:
            self._highest = max(self._highest or 0.0, self._speed)

    def speed(self, now: float) -> float | None:
        """The present speed; without one the highest; None if neither is known."""
        if now - self._measured_at > self._present_s:
            self._batches.clear()
            self._tokens.clear()
            self._speed = None
        return self._highest if self._speed is None else self._speed

    def certain_speed(self, now: float) -> float | None:
        """The highest speed, the present one included; None if it is unknown, or so old that only a batch can tell."""
        if now - self._measured_at > _CERTAIN_S:
            return None
        return max((speed for speed in (self._highest, self.speed(now)) if speed is not None), default=None)

    def task_share(self, task_id: int) -> float:
        """The task's share of the tokens of the last batches, from 0 to 1."""
        total = self._tokens.total()
        return self._tokens[task_id] / total if total else 0.0

    def _measured_speed(self) -> float | None:
        """Of all batches but the slowest, as many as there are streams; None if there are no others."""
        slowest_last = sorted(self._batches, key=lambda batch: batch.seconds / batch.work)
        counted = slowest_last[: -self._num_streams]
        if not counted:
            return None
        return sum(batch.work for batch in counted) / sum(batch.seconds for batch in counted)
