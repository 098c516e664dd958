"""Stop signal: tells a thread that works on a request to stop, as nobody will read its result."""

from __future__ import annotations

import time

from polytask.service.errors import DeadlineExceeded, ServiceError

TOO_LATE = "the deadline passed while the request was tokenised or its answers were written"


class StopSignal:
    """Ends work at its deadline, in seconds of `time.monotonic()`, or when `stop` is called."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._reason: ServiceError | None = None

    def stop(self, reason: ServiceError) -> None:
        """Ends the work for this reason, from any thread."""
        self._reason = reason

    def check(self) -> None:
        """Raises the reason to stop, if there is one. For a thread to call every few milliseconds of its work."""
        if self._reason is not None:
            raise self._reason
        if time.monotonic() >= self._deadline:
            raise DeadlineExceeded(TOO_LATE)
