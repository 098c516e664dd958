"""Connection limit: how many connections a process holds, and which of them end when others come."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterable
from typing import Protocol

from polytask.service.observability.logs import RecurringLine

MAX_CONNECTIONS = 4096
"""Limit of a process."""

_OTHER_DESCRIPTORS = 192
"""What a process opens besides: libraries, engines, the files of a version that is loaded, connections just accepted."""

_SHARE = 16
"""The part of the limit that ends at a time, so that looking for the oldest is rare."""

_closed = RecurringLine(
    logging.getLogger(__name__),
    logging.WARNING,
    "%d connections were closed since the last such line: this process has as many as it may have; those that had waited "
    "longest for their client went first",
)


class _Connection(Protocol):
    @property
    def waiting_since(self) -> float | None: ...

    def abort(self) -> None: ...


def max_connections() -> int:
    """How many connections this process may hold. Raises its limit of open files as far as it may and needs to."""
    soft, hard = (
        limit if limit != resource.RLIM_INFINITY else 2**31 for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    wanted = MAX_CONNECTIONS + _OTHER_DESCRIPTORS
    if soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return min(MAX_CONNECTIONS, max(soft - _OTHER_DESCRIPTORS, _SHARE))


def make_room(connections: Iterable[_Connection], limit: int) -> None:
    """Ends those of the connections that have waited longest for their client, a part of the limit at a time.

    None that has a request is ended, and the newest only if there is no other.
    """
    waiting = [(since, each) for each in connections if (since := each.waiting_since) is not None]
    waiting.sort(key=lambda pair: pair[0])
    oldest = waiting[: max(1, min(limit // _SHARE, len(waiting) - 1))]
    for _, connection in oldest:
        connection.abort()
    _closed.count(len(oldest))
