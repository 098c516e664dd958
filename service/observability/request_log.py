"""The line that the log has of a request: which requests have one, and what it says."""

from __future__ import annotations

import logging
import random
from typing import Any

from polytask.service.observability.logs import StructuredMessage
from polytask.service.request_context import RequestContext

logger = logging.getLogger(__name__)

_NOT_READY = 503
"""Before a request is accepted: such come as fast as clients try again, and the metrics count them."""


class RequestLog:
    """Logs a share of requests, from 0 to 1, and all that were accepted and got no answer."""

    def __init__(self, share: float) -> None:
        self._share = share

    def wants(self, course: RequestContext) -> bool:
        """Whether the request has a line."""
        if course.exception is not None or (course.status >= 500 and (course.status != _NOT_READY or course.stages)):
            return True
        return self._share > 0 and random.random() < self._share  # noqa: S311, a sample, not cryptography

    def write(self, course: RequestContext) -> None:
        """Writes the line of a request that is over."""
        level = logging.INFO if course.status < 500 else logging.WARNING
        if course.exception is not None:
            level = logging.ERROR
        if logger.isEnabledFor(level):
            # Not `logger.log`: it would look for the place in the code, which takes as long as all the rest.
            logger.handle(logger.makeRecord(logger.name, level, __file__, 0, RequestLine(course), (), None))


class RequestLine(StructuredMessage):
    """A request as a message of the log."""

    def __init__(self, course: RequestContext) -> None:
        self._course = course

    def fields(self) -> dict[str, Any]:
        """What is known of it; seconds have microseconds."""
        course = self._course
        fields: dict[str, Any] = {
            "event": "request",
            "request_id": course.request_id,
            "method": course.method,
            "path": course.route,
            "status": course.status,
            "outcome": course.outcome,
            "seconds": round(course.ended - course.arrived, 6),
        }
        if course.tasks:
            fields["task"] = ",".join(course.tasks)
        if course.stages:
            fields["stages"] = {stage: round(seconds, 6) for stage, seconds in course.seconds().items()}
        if course.num_inputs:
            fields |= {"inputs": course.num_inputs, "rows": course.num_rows, "tokens": course.num_tokens}
        for name in ("problem", "revision", "key", "trace_id", "exception"):
            value = getattr(course, name)
            if value is not None:
                fields[name] = value
        return fields

    def __str__(self) -> str:
        course = self._course
        what = " ".join(filter(None, [course.method, course.route, ",".join(course.tasks)]))
        stages = ", ".join(f"{stage} {seconds * 1000:.1f}" for stage, seconds in course.seconds().items())
        parts = [
            f"{what}: {course.status} {course.problem or course.outcome} in {(course.ended - course.arrived) * 1000:.1f} ms"
            + (f" ({stages})" if stages else ""),
            f"{course.num_rows} rows, {course.num_tokens} tokens" if course.num_inputs else "",
            f"request {course.request_id}",
            f"trace {course.trace_id}" if course.trace_id else "",
            f"key {course.key}" if course.key else "",
            course.revision or "",
        ]
        line = ", ".join(filter(None, parts))
        return f"{line}\n{course.exception}" if course.exception else line
