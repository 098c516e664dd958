"""The ids that a request comes with: its own, or a fresh one, and that of the trace that it belongs to."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

HEADER = b"x-request-id"

_DRAWN = random.Random()  # noqa: S311
"""Not the system's, as during its call other threads would take the interpreter. An id is no secret."""

_ID = re.compile(rb"[A-Za-z0-9._:/=+@-]{1,128}")
"""What is taken over as an id: nothing that could end a line of a log or begin a header."""

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The id in the headers if it is one, else a new one: 16 hexadecimal digits."""
    for name, value in headers:
        if name == HEADER and _ID.fullmatch(value):
            return value
    return b"%016x" % _DRAWN.getrandbits(64)


def trace_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The trace that a request belongs to, by a valid `traceparent` (W3C Trace Context), as 32 hexadecimal digits."""
    given = [value for name, value in headers if name == b"traceparent"]
    found = _TRACEPARENT.fullmatch(given[0]) if len(given) == 1 else None
    if found is None:
        return None
    version, trace, parent, more = found.groups()
    # Later versions may have more behind a dash; ff is none, and ids of zeros alone are none.
    valid = version != b"ff" and (version != b"00" or more is None) and trace.strip(b"0") and parent.strip(b"0")
    return trace.decode() if valid else None
