"""Retries: which errors are worth another try, and the wait before it."""

from __future__ import annotations

from dataclasses import dataclass

from polytask_client.errors import PolytaskError, ServiceError, Unreachable

_TRANSIENT = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Retries:
    """Number of tries of a call, and the waits between them in seconds.

    Every call of this API may be repeated: a prediction changes nothing, so one whose answer was lost with the
    connection can be sent again. `max_tries`: None for as many as the deadline allows. Without Retry-After the n-th
    wait is at most `first_s` times 2 to the n-1, and at most `longest_s`.
    """

    max_tries: int | None = 5
    first_s: float = 0.1
    longest_s: float = 10.0

    def wait_s(self, tries: int, error: PolytaskError, jitter: float) -> float | None:
        """Seconds to wait after `tries` tries, the last of which ended with `error`; None to give up.

        `jitter`: a random number from 0 to 1, so that clients refused at the same time do not return at the same time.
        """
        if tries == self.max_tries or not _transient(error):
            return None
        # The exponent is bounded, as a float would overflow after many tries.
        backoff = min(self.longest_s, self.first_s * 2.0 ** min(tries - 1, 64))
        after = error.problem.retry_after_s if isinstance(error, ServiceError) else None
        # Never before the time that the service names, and not all clients exactly then.
        return backoff * (1 + jitter) / 2 if after is None else after + backoff * jitter


def _transient(error: PolytaskError) -> bool:
    if isinstance(error, ServiceError):
        return error.problem.status in _TRANSIENT
    return isinstance(error, Unreachable)
