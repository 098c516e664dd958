"""Problem details (RFC 9457): turns errors into responses, and decides what the log may show of internal errors."""

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
from polytask.service.web.openapi import PROBLEM, is_inference_protocol

CLIENT_ERRORS = (ServiceError, HTTPException, RequestValidationError)
"""Errors that are reported to clients as they are. All others become InternalError."""

_PROBLEM = TypeAdapter(Problem)
_ENCODER = msgspec.json.Encoder()


class ErrorResponder:
    """Turns errors into responses. `log_texts`: the log may show exception messages, which can quote client text.

    `root_path`: the path of the service, where its clients see it below one.
    """

    def __init__(self, *, log_texts: bool = False, root_path: str = "") -> None:
        self._log_texts = log_texts
        self._root_path = root_path

    async def handle(self, request: Request, error: Exception) -> Response:
        """`response` as an exception handler of Starlette."""
        return self.response(request.scope, error)

    def response(self, scope: Scope, error: Exception) -> Response:
        """The problem response to an error. Records the error in the request context."""
        if not isinstance(error, CLIENT_ERRORS):
            error = InternalError(error)
        context: RequestContext = scope[REQUEST_CONTEXT]
        details = replace(_problem(error, self._root_path), request_id=context.request_id)
        context.outcome = error.outcome if isinstance(error, ServiceError) else InvalidInput.outcome
        context.problem = details.type
        if isinstance(error, InternalError):
            assert error.__cause__ is not None
            context.exception = _format_traceback(error.__cause__, messages=error.textless or self._log_texts)
        headers = dict(getattr(error, "headers", None) or {})
        if details.retry_after_s is not None:
            headers["Retry-After"] = str(details.retry_after_s)
        if isinstance(error, ServiceError) and error.close_connection:
            headers["Connection"] = "close"
        if is_inference_protocol(scope["path"]):
            # These protocols report invalid input as 400.
            status = 400 if details.status == InvalidInput.status else details.status
            return Response(render_message(details), status, headers, "application/json")
        return Response(render_problem(details), details.status, headers, PROBLEM)


def render_problem(details: Problem) -> bytes:
    """The problem as JSON."""
    return _PROBLEM.dump_json(details, exclude_none=True)


def render_message(details: Problem) -> bytes:
    """The error of other inference protocols as JSON: a message only."""
    return _ENCODER.encode({"error": details.detail})


def _format_traceback(cause: BaseException, *, messages: bool) -> str:
    """Traceback of an error and of its causes; without `messages` only the frames and the exception types."""
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


def _problem(error: ServiceError | HTTPException | RequestValidationError, root_path: str) -> Problem:
    if isinstance(error, RequestValidationError):
        wrong = [FieldError(".".join(map(str, detail["loc"])), detail["msg"]) for detail in error.errors()]
        return InvalidInput(wrong).problem()
    if isinstance(error, HTTPException):
        return problem(
            error.status_code, HTTPStatus(error.status_code).phrase, f"{error.detail}; {root_path}/docs has all paths"
        )
    return error.problem()
