"""Rate limits: requests per second and concurrent requests of each API key, exact over all processes that serve a port.

State lives in memory shared by all frontends, one slot per key: the time at which its token bucket is full again, and
each process's number of requests in flight. It is read and written under a file lock, which the kernel releases if its
owner dies.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from polytask.service.config.api_keys import Key
from polytask.service.errors import ConcurrencyLimited, RateLimited

_NUMBER_BYTES = 8

_SLACK_S = 1e-6
"""Rounding error of clock arithmetic: a request that comes exactly after its Retry-After is not refused."""

_MEAN_REQUESTS = 16
"""Approximate number of requests in the moving average of their duration."""


@dataclass(frozen=True, slots=True)
class ProcessIndex:
    """Which of `num_processes` processes this is, counted from 0. They share the limits in `file`."""

    file: Path
    number: int
    num_processes: int


class RateLimiter:
    """Limits of one key. All calls come from one thread of each process.

    The generic cell rate algorithm: the time at which the bucket is full again stands for a bucket of `burst` tokens
    that gains `requests_per_s`.
    """

    def __init__(self, key: Key, counts: memoryview[float], number: int, lock: AbstractContextManager[None]) -> None:
        self._key = key
        self._lock = lock
        # When the bucket is full, in seconds of the monotonic clock; then the requests in flight of each process.
        self._counts = counts
        self._in_flight_index = 1 + number
        self._step_s = 1 / key.requests_per_s if key.requests_per_s else 0.0
        self._burst_s = self._step_s * (key.burst or max(1.0, key.requests_per_s))
        self._mean_s = 0.0
        # Requests of a process that had this number before ended when it died.
        counts[self._in_flight_index] = 0

    def acquire(self, now: float) -> None:
        """Admits a request, for which `release` must be called when it ends. Raises ConcurrencyLimited or RateLimited."""
        with self._lock:
            counts = self._counts
            if self._key.concurrent and sum(counts[1:]) >= self._key.concurrent:
                raise ConcurrencyLimited(self._key.concurrent, self._mean_s / self._key.concurrent)
            if self._step_s:
                full_at = max(counts[0], now) + self._step_s
                wait_s = full_at - now - self._burst_s
                if wait_s > _SLACK_S:
                    raise RateLimited(self._key.requests_per_s, wait_s)
                counts[0] = full_at
            counts[self._in_flight_index] += 1

    def release(self, seconds: float) -> None:
        """An admitted request has ended after `seconds`."""
        self._mean_s += (seconds - self._mean_s) / _MEAN_REQUESTS
        with self._lock:
            self._counts[self._in_flight_index] -= 1


def rate_limiters(keys: Sequence[Key], process_index: ProcessIndex | None = None) -> dict[str, RateLimiter]:
    """A limiter for each key that has limits, by name. `process_index`: None if there are no other processes."""
    limited = [key for key in keys if key.requests_per_s or key.concurrent]
    if not limited:
        return {}
    width = 1 + (process_index.num_processes if process_index else 1)
    counts, lock = _memory(len(limited) * width * _NUMBER_BYTES, process_index)
    return {
        key.name: RateLimiter(
            key, counts[row * width : (row + 1) * width], process_index.number if process_index else 0, lock
        )
        for row, key in enumerate(limited)
    }


def _memory(
    num_bytes: int, process_index: ProcessIndex | None
) -> tuple[memoryview[float], AbstractContextManager[None]]:
    """Zeroed numbers, and the lock for access to them."""
    if process_index is None:
        return memoryview(mmap.mmap(-1, num_bytes)).cast("d"), nullcontext()
    descriptor = os.open(process_index.file, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(descriptor, num_bytes)
    return memoryview(mmap.mmap(descriptor, num_bytes)).cast("d"), _Lock(descriptor)


class _Lock:
    """Exclusive lock of an open file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
