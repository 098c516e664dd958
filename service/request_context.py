"""Request context: ids and facts of one request, filled in on its way and read for its log line and its trace."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

REQUEST_CONTEXT = "polytask.request_context"
"""Key of the context in the ASGI scope of a request."""

METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
OTHER_METHOD = "_OTHER"
"""Name of all methods that are not in METHODS, since a client may send any word."""

REQUEST_ID_HEADER = b"x-request-id"

_RANDOM = random.Random()  # noqa: S311
"""Not the system's source: other threads would take the interpreter during its call. An id is no secret."""

_ID = re.compile(rb"[A-Za-z0-9._:/=+@-]{1,128}")
"""Accepted ids: without characters that could end a line of the log or begin a header."""

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


@dataclass(slots=True, eq=False)
class RequestContext:
    """One request. No field holds client text or a key, so operators may see all of them.

    Times are seconds of `time.monotonic()`. `key`: name of the API key. `tasks`: those tasks of the request that are
    served. `stages`: start and end of each completed stage. `status`: 0 until the response starts. `outcome`: as in the
    metrics. `problem`: type of the problem. `exception`: what the log may show of the error behind it. The fields from
    `ended` on are set when the request is over, and only if it is logged or traced; `route`: path template.
    """

    request_id: str = ""
    arrived: float = 0.0
    key: str | None = None
    tasks: Sequence[str] = ()
    revision: str | None = None
    num_inputs: int = 0
    num_rows: int = 0
    num_tokens: int = 0
    stages: dict[str, tuple[float, float]] = field(default_factory=dict)
    status: int = 0
    outcome: str = "ok"
    problem: str | None = None
    exception: str | None = None
    ended: float = 0.0
    method: str = ""
    route: str = ""
    trace_id: str | None = None

    def seconds(self) -> dict[str, float]:
        """Duration of each completed stage."""
        return {stage: end - start for stage, (start, end) in self.stages.items()}


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The id in the headers if it is valid, else a new one of 16 hexadecimal digits."""
    for name, value in headers:
        if name == REQUEST_ID_HEADER and _ID.fullmatch(value):
            return value
    return b"%016x" % _RANDOM.getrandbits(64)


def trace_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The trace id in a valid `traceparent` (W3C Trace Context), as 32 hexadecimal digits; None without one."""
    values = [value for name, value in headers if name == b"traceparent"]
    match = _TRACEPARENT.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        return None
    version, trace, parent, rest = match.groups()
    # Later versions may have more parts after a dash. Version ff and ids of zeros only are invalid.
    valid = version != b"ff" and (version != b"00" or rest is None) and trace.strip(b"0") and parent.strip(b"0")
    return trace.decode() if valid else None
