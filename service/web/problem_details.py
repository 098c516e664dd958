"""The one place where errors become responses: problems (RFC 9457), and what the log may have of our own faults."""

from __future__ import annotations

import traceback
from dataclasses import replace
from http import HTTPStatus

import msgspec
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.types import Scope

from polytask.service.errors import FieldError, InternalError, InvalidInput, Problem, ServiceError, problem
from polytask.service.request_context import REQUEST_CONTEXT, RequestContext
from polytask.service.web.openapi import PROBLEM, of_other_protocol

CLIENT_ERRORS = (ServiceError, HTTPException, RequestValidationError)
"""Errors that are meant for clients."""

_PROBLEM = TypeAdapter(Problem)
_ENCODER = msgspec.json.Encoder()


class ErrorResponder:
    """Errors as responses. `log_texts`: the log may have messages that could hold a text of a client."""

    def __init__(self, *, log_texts: bool = False) -> None:
        self._log_texts = log_texts

    async def handle(self, request: Request, error: Exception) -> Response:
        """The same for the framework."""
        return self.response(request.scope, error)

    def response(self, scope: Scope, error: Exception) -> Response:
        """The problem that a client gets instead of an answer. Notes it in the course of the request."""
        if not isinstance(error, CLIENT_ERRORS):
            error = InternalError(error)
        context: RequestContext = scope[REQUEST_CONTEXT]
        found = replace(_problem(error), request_id=context.request_id)
        context.outcome = error.outcome if isinstance(error, ServiceError) else InvalidInput.outcome
        context.problem = found.type
        if isinstance(error, InternalError):
            assert error.__cause__ is not None
            context.exception = _format_traceback(error.__cause__, messages=error.textless or self._log_texts)
        headers = dict(getattr(error, "headers", None) or {})
        if found.retry_after_s is not None:
            headers["Retry-After"] = str(found.retry_after_s)
        if isinstance(error, ServiceError) and error.close_connection:
            headers["Connection"] = "close"
        if of_other_protocol(scope["path"]):
            # These know a wrong input by 400.
            status = 400 if found.status == InvalidInput.status else found.status
            return Response(render_message(found), status, headers, "application/json")
        return Response(render(found), found.status, headers, PROBLEM)


def render(found: Problem) -> bytes:
    """The problem as JSON."""
    return _PROBLEM.dump_json(found, exclude_none=True)


def render_message(found: Problem) -> bytes:
    """What other inference protocols tell of it, as JSON."""
    return _ENCODER.encode({"error": found.detail})


def _format_traceback(cause: BaseException, *, messages: bool) -> str:
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
