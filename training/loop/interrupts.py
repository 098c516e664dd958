"""Interrupts: signals that ask a run to stop are recorded, and the run stops between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupted(Exception):
    """A run that was stopped by a signal. `number`: the signal's; the message says how to resume."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number


class InterruptHandler:
    """Records SIGTERM and SIGINT within its block. The third signal ends the process at once.

    The second does not: in a terminal the processes of torchrun get each SIGINT twice, once from torchrun.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._times = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python lets only the main thread handle signals; in another thread the owner of the process handles them.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        self._times += 1
        if self._times > 2:
            raise KeyboardInterrupt
