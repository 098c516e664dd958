"""When to start a process again that has died: soon, later each time, and not at all if it never gets ready."""

from __future__ import annotations

from dataclasses import dataclass

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 30.0

_LONG_LIFE_S = 60.0
"""A process that lived that long has worked: its death is not counted together with the one before."""

_MOST_FAILED = 5
"""Lives in a row without ever being ready after which another one is no use."""


@dataclass(slots=True)
class Lives:
    """The lives of one process so far. `num_failed`: in a row that have ended before it was ready."""

    was_ready: bool = False
    num_failed: int = 0
    num_short: int = 0

    def died(self, *, ready: bool, lived_s: float) -> float | None:
        """The seconds until the next life begins; None if there is to be none. `ready`: whether this one was."""
        self.num_failed = 0 if ready else self.num_failed + 1
        if self.num_failed == _MOST_FAILED:
            return None
        self.num_short = 0 if ready and lived_s >= _LONG_LIFE_S else self.num_short + 1
        return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** max(0, self.num_short - 1))
