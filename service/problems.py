"""The one place where errors become responses: problems (RFC 9457), and what the log has about our own faults."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterable
from dataclasses import replace
from http import HTTPStatus

import msgspec
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.types import Scope

from service.errors import FieldError, InternalError, InvalidInput, Problem, ServiceError, problem
from service.openapi import PROBLEM, of_other_protocol

logger = logging.getLogger(__name__)

TOLD = (ServiceError, HTTPException, RequestValidationError)
"""Errors that are meant for clients."""

REQUEST_ID, KEY_NAME = "polytask.request_id", "polytask.key"
"""Where the scope of a request has its id, and the name of its API key if it has one."""

_PROBLEM = TypeAdapter(Problem)
_ENCODER = msgspec.json.Encoder()

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


class Problems:
    """Errors as responses. `log_texts`: the log may have messages that could hold a text of a client."""

    def __init__(self, *, log_texts: bool = False) -> None:
        self._log_texts = log_texts

    async def handle(self, request: Request, error: Exception) -> Response:
        """The same for the framework."""
        return self.response(request.scope, error)

    def response(self, scope: Scope, error: Exception) -> Response:
        """The problem that a client gets instead of an answer. What is our fault goes to the log."""
        if not isinstance(error, TOLD):
            error = InternalError(error)
        if isinstance(error, InternalError):
            self._log(scope, error)
        found = replace(_problem(error), request_id=scope.get(REQUEST_ID))
        headers = dict(getattr(error, "headers", None) or {})
        if found.retry_after_s is not None:
            headers["Retry-After"] = str(found.retry_after_s)
        if isinstance(error, ServiceError) and error.unread:
            headers["Connection"] = "close"
        if of_other_protocol(scope["path"]):
            # These know a wrong input by 400.
            status = 400 if found.status == InvalidInput.status else found.status
            return Response(render_message(found), status, headers, "application/json")
        return Response(render(found), found.status, headers, PROBLEM)

    def _log(self, scope: Scope, error: InternalError) -> None:
        assert error.__cause__ is not None
        trace, key = trace_id(scope["headers"]), scope.get(KEY_NAME)
        logger.error(
            "%s %a failed, request %s%s%s\n%s",
            scope["method"],
            scope["path"],
            scope.get(REQUEST_ID),
            f", trace {trace}" if trace else "",
            f", key {key}" if key else "",
            _told(error.__cause__, messages=error.textless or self._log_texts),
        )


def render(found: Problem) -> bytes:
    """The problem as JSON."""
    return _PROBLEM.dump_json(found, exclude_none=True)


def render_message(found: Problem) -> bytes:
    """What other inference protocols tell of it, as JSON."""
    return _ENCODER.encode({"error": found.detail})


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


def _told(cause: BaseException, *, messages: bool) -> str:
    """The trace of an error and of those behind it; without `messages` only where they were raised and what they are."""
    if messages:
        return "".join(traceback.format_exception(cause))
    parts: list[str] = []
    error: BaseException | None = cause
    while error is not None:
        kind = type(error)
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"{frames}{kind.__module__}.{kind.__qualname__} (POLYTASK_LOG_TEXTS=yes shows the message)\n")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "raised after:\n".join(parts)


def _problem(error: ServiceError | HTTPException | RequestValidationError) -> Problem:
    if isinstance(error, RequestValidationError):
        wrong = [FieldError(".".join(map(str, detail["loc"])), detail["msg"]) for detail in error.errors()]
        return InvalidInput(wrong).problem()
    if isinstance(error, HTTPException):
        return problem(error.status_code, HTTPStatus(error.status_code).phrase, f"{error.detail}; /docs has all paths")
    return error.problem()
