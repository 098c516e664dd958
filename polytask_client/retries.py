"""When a call is worth another try, and how long to wait before it."""

from __future__ import annotations

from dataclasses import dataclass

from polytask_client.errors import PolytaskError, ServiceError, Unreachable

_TRANSIENT = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a call is tried, and the waits in between, in seconds.

    Every call of this API may be repeated: a prediction changes nothing, so one that was answered into a broken
    connection can be asked for again. `max_tries`: None for as many as the deadline leaves time for. Without Retry-After
    the n-th wait is at most `first_s` times 2 to the n-1, and at most `longest_s`.
    """

    max_tries: int | None = 5
    first_s: float = 0.1
    longest_s: float = 10.0

    def wait_s(self, tries: int, error: PolytaskError, jitter: float) -> float | None:
        """How long to wait after so many tries, the last of which ended with `error`; None to give up.

        `jitter`: a random number from 0 to 1, so that clients that were refused together do not come back together.
        """
        if tries == self.max_tries or not _transient(error):
            return None
        # No power that overflows, however often the service is asked.
        backoff = min(self.longest_s, self.first_s * 2.0 ** min(tries - 1, 64))
        after = error.problem.retry_after_s if isinstance(error, ServiceError) else None
        # Not before the service has said, and not all at that very moment.
        return backoff * (1 + jitter) / 2 if after is None else after + backoff * jitter


def _transient(error: PolytaskError) -> bool:
    if isinstance(error, ServiceError):
        return error.problem.status in _TRANSIENT
    return isinstance(error, Unreachable)
