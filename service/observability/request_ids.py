"""Request ids: the client's or a new one, and the id of the trace that a request belongs to."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

HEADER = b"x-request-id"

_RANDOM = random.Random()  # noqa: S311
"""Not the system's source: other threads would take the interpreter during its call. An id is no secret."""

_ID = re.compile(rb"[A-Za-z0-9._:/=+@-]{1,128}")
"""Accepted ids: without characters that could end a line of the log or begin a header."""

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The id in the headers if it is valid, else a new one of 16 hexadecimal digits."""
    for name, value in headers:
        if name == HEADER and _ID.fullmatch(value):
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
