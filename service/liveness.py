"""Liveness: whether a part of the service goes on, measured by the ticks of who watches it.

A device loop, an engine and a frontend each count what they do, and do something at least once a second, whether there
are requests or not. A part whose count stands still hangs: it is not ready, and who waits for it is told so. When that
does not pass, the part is started again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

BEAT_S = 1.0
"""Longest time in which a part that is well counts nothing, but for a batch that runs."""

TICK_S = 0.25
"""Interval between two looks at a count."""

HUNG_S = 5.0
"""Seconds of standing still after which a part hangs."""

RESTART_S = 30.0
"""Seconds of standing still after which only a restart helps."""


class ProgressWatch:
    """Seconds for which a count has stood still, of which each look adds one at most.

    So time in which the watcher did not run either does not count: a container or a machine that was stopped as a whole
    goes on as if nothing had been.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count: object = None
        self._looked_at = clock()
        self._still_s = 0.0

    def look(self, count: object) -> float:
        """The seconds for which the count has been this one. To be called every TICK_S."""
        now = self._clock()
        self._still_s = 0.0 if count != self._count else self._still_s + min(now - self._looked_at, 1.0)
        self._count, self._looked_at = count, now
        return self._still_s
