"""Call protocol: one call from its first try to its result, without I/O, which the clients add.

A call is a generator of steps. A client sends each `Send` and passes the reply or the error back, and sleeps for each
`Wait`. The generator returns the result or raises PolytaskError.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from polytask_client.errors import PolytaskError
from polytask_client.messages import Reply, Request, refusal
from polytask_client.retries import Retries

_MAX_DEADLINE_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Send:
    """A request to send now. The reply must be complete within `timeout_s` seconds."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """A time to sleep, in seconds."""

    seconds: float


_Result = TypeVar("_Result")
CallSteps = Generator[Send | Wait, Reply | PolytaskError | None, _Result]


def exchange(
    request: Request, retries: Retries, deadline_s: float, clock: Callable[[], float] = time.monotonic
) -> CallSteps[Reply]:
    """A successful reply to the request. Raises the last error if no further try is worthwhile or in time."""
    started = clock()
    deadline, tries = started + deadline_s, 0
    while True:
        # Never 0, as the sleep before may have taken a little too long.
        remaining_s = max(deadline - clock(), 0.001)
        reply = yield _send(request, remaining_s)
        tries += 1
        assert reply is not None, "a Send is answered with a reply or an error"
        if isinstance(reply, Reply) and reply.status < 300:
            return reply
        error = refusal(reply) if isinstance(reply, Reply) else reply
        wait_s = retries.wait_s(tries, error, random.random())  # noqa: S311, not cryptography
        if wait_s is None or clock() + wait_s >= deadline:
            if tries > 1:
                error.add_note(f"tried {tries} times in {clock() - started:.1f} s")
            raise error
        yield Wait(wait_s)


def _send(request: Request, remaining_s: float) -> Send:
    if request.body is None:
        return Send("GET", request.path, {}, None, remaining_s)
    # The remaining time, so that the service does not work on a request that nobody waits for any more.
    milliseconds = min(max(1, math.floor(remaining_s * 1000)), _MAX_DEADLINE_MS)
    headers = {"Content-Type": "application/json", "Polytask-Deadline-Ms": str(milliseconds)}
    return Send("POST", request.path, headers, request.body, remaining_s)
