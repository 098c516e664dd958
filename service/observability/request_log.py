"""Request log: which requests get a line in the log, and its fields."""

from __future__ import annotations

import logging
import random
from typing import Any

from polytask.service.observability.logs import StructuredMessage
from polytask.service.request_context import RequestContext

logger = logging.getLogger(__name__)

_NOT_READY = 503
"""Refusals before a request is accepted. They come as fast as clients retry, and the metrics count them."""


class RequestLog:
    """Logs a share of requests, from 0 to 1, and all accepted requests that failed."""

    def __init__(self, share: float) -> None:
        self._share = share

    def should_log(self, context: RequestContext) -> bool:
        """Whether the request gets a line."""
        if context.exception is not None or (
            context.status >= 500 and (context.status != _NOT_READY or context.stages)
        ):
            return True
        return self._share > 0 and random.random() < self._share  # noqa: S311, a sample, not cryptography

    def write(self, context: RequestContext) -> None:
        """Logs a request that has ended."""
        level = logging.INFO if context.status < 500 else logging.WARNING
        if context.exception is not None:
            level = logging.ERROR
        if logger.isEnabledFor(level):
            # Not `logger.log`: it would look up the calling line, which takes as long as all the rest.
            logger.handle(logger.makeRecord(logger.name, level, __file__, 0, RequestLine(context), (), None))


class RequestLine(StructuredMessage):
    """The log message of a request."""

    def __init__(self, context: RequestContext) -> None:
        self._context = context

    def fields(self) -> dict[str, Any]:
        """The known fields of the request. Seconds are rounded to microseconds."""
        context = self._context
        fields: dict[str, Any] = {
            "event": "request",
            "request_id": context.request_id,
            "method": context.method,
            "path": context.route,
            "status": context.status,
            "outcome": context.outcome,
            "seconds": round(context.ended - context.arrived, 6),
        }
        if context.tasks:
            fields["task"] = ",".join(context.tasks)
        if context.stages:
            fields["stages"] = {stage: round(seconds, 6) for stage, seconds in context.seconds().items()}
        if context.num_inputs:
            fields |= {"inputs": context.num_inputs, "rows": context.num_rows, "tokens": context.num_tokens}
        for name in ("problem", "revision", "key", "trace_id", "exception"):
            value = getattr(context, name)
            if value is not None:
                fields[name] = value
        return fields

    def __str__(self) -> str:
        context = self._context
        subject = " ".join(filter(None, [context.method, context.route, ",".join(context.tasks)]))
        stages = ", ".join(f"{stage} {seconds * 1000:.1f}" for stage, seconds in context.seconds().items())
        parts = [
            f"{subject}: {context.status} {context.problem or context.outcome} in {(context.ended - context.arrived) * 1000:.1f} ms"
            + (f" ({stages})" if stages else ""),
            f"{context.num_rows} rows, {context.num_tokens} tokens" if context.num_inputs else "",
            f"request {context.request_id}",
            f"trace {context.trace_id}" if context.trace_id else "",
            f"key {context.key}" if context.key else "",
            context.revision or "",
        ]
        line = ", ".join(filter(None, parts))
        return f"{line}\n{context.exception}" if context.exception else line
