"""How much each key may ask, a second and at a time: exact over all processes that answer on a port.

What counts lies in memory that these processes share, by the key's place: when its bucket will be full again, and how many
requests each process works on for it. A lock that the kernel drops with its owner is held while it is read and written.
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
"""Of the clock's arithmetic: a request that comes exactly when it was told to is not refused."""

_REMEMBERED = 16
"""Requests over which their mean duration is taken, about."""


@dataclass(frozen=True, slots=True)
class ProcessIndex:
    """Which of `num_processes` processes this is, counted from 0. They share the limits in `file`."""

    file: Path
    number: int
    num_processes: int


class RateLimiter:
    """What one key may still ask. Called on one thread of each process.

    The bucket is kept as the one time at which it will be full (the generic cell rate algorithm): it lets through what a
    bucket of `burst` tokens would that gains `requests_per_s`.
    """

    def __init__(self, key: Key, counts: memoryview[float], number: int, lock: AbstractContextManager[None]) -> None:
        self._key = key
        self._lock = lock
        self._counts = (
            counts  # when the bucket is full in seconds of the monotonic clock, then requests of each process
        )
        self._own = 1 + number
        self._step_s = 1 / key.requests_per_s if key.requests_per_s else 0.0
        self._burst_s = self._step_s * (key.burst or max(1.0, key.requests_per_s))
        self._mean_s = 0.0
        # Those of a process that had this number and has died ended with it.
        counts[self._own] = 0

    def acquire(self, now: float) -> None:
        """A request comes. Raises ConcurrencyLimited or RateLimited; else `leave` is to be called when it ends."""
        with self._lock:
            counts = self._counts
            if self._key.concurrent and sum(counts[1:]) >= self._key.concurrent:
                raise ConcurrencyLimited(self._key.concurrent, self._mean_s / self._key.concurrent)
            if self._step_s:
                full = max(counts[0], now) + self._step_s
                wait_s = full - now - self._burst_s
                if wait_s > _SLACK_S:
                    raise RateLimited(self._key.requests_per_s, wait_s)
                counts[0] = full
            counts[self._own] += 1

    def release(self, seconds: float) -> None:
        """A request that entered has ended; `seconds` after that."""
        self._mean_s += (seconds - self._mean_s) / _REMEMBERED
        with self._lock:
            self._counts[self._own] -= 1


def rate_limiters(keys: Sequence[Key], process_index: ProcessIndex | None = None) -> dict[str, RateLimiter]:
    """The allowances of those keys that have limits, by name. Without a place this is the only process."""
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
    """Numbers that are 0 at first, and what to hold while they are used."""
    if process_index is None:
        return memoryview(mmap.mmap(-1, num_bytes)).cast("d"), nullcontext()
    descriptor = os.open(process_index.file, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(descriptor, num_bytes)
    return memoryview(mmap.mmap(descriptor, num_bytes)).cast("d"), _Lock(descriptor)


class _Lock:
    """The lock of an open file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
