"""Errors of the client, one class per cause."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


class PolytaskError(Exception):
    """A call has no answer; the subclass names the cause."""


class InvalidArgument(PolytaskError, TypeError, ValueError):
    """An argument of a call is wrong, and nothing was sent. Wrong inputs are an `InvalidInput` instead."""


class Closed(PolytaskError, RuntimeError):
    """The client was closed before the call."""


class Unreachable(PolytaskError):
    """The service could not be connected to, or the connection broke."""


class OutOfTime(PolytaskError, TimeoutError):
    """The deadline passed before the service answered."""


class BadResponse(PolytaskError):
    """The response does not follow this API: another service, or an incompatible release."""


class ModelChanged(PolytaskError):
    """The answers come from another model than the expected one."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """A wrong part of a request. `field`: its location, such as `inputs[2].text_pair`."""

    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem that a service sends instead of an answer (RFC 9457). `type` is for programs, `detail` for people.

    `errors`: the wrong parts of an invalid request. `retry_after_s`: seconds until another try may succeed.
    `request_id`: the request's id in the service's log.
    """

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[FieldError, ...] = ()
    retry_after_s: float | None = None
    request_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON object that a service would send, without empty fields."""
        return {name: value for name, value in asdict(self).items() if value is not None and value != ()}


class ServiceError(PolytaskError):
    """The service answered with a problem. This class itself stands for statuses without a subclass."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.title} ({problem.status}): {problem.detail}")
        self.problem = problem


class Unauthorized(ServiceError):
    """The key is missing, wrong, or not allowed for this request (401, 403)."""


class UnknownTask(ServiceError):
    """The service has no such task, or no such path (404)."""


class TooLarge(ServiceError):
    """The request is larger than the service accepts (413)."""


class InvalidInput(ServiceError):
    """The request does not have the shape that its task needs (422). `problem.errors` lists the wrong fields.

    The client itself refuses inputs that JSON cannot hold, such as NaN, bytes or dates, with the same problem.
    """


class Overloaded(ServiceError):
    """The service has no room for the request now (429)."""


class Unavailable(ServiceError):
    """The service is starting, shutting down, or broken (502, 503)."""


class DeadlineExceeded(ServiceError):
    """The service had no answer by its own or the client's deadline (504)."""


_BY_STATUS = {
    401: Unauthorized,
    403: Unauthorized,
    404: UnknownTask,
    413: TooLarge,
    422: InvalidInput,
    429: Overloaded,
    502: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}


def service_error(problem: Problem) -> ServiceError:
    """The error of a problem, of the class for its status."""
    return _BY_STATUS.get(problem.status, ServiceError)(problem)


def read_problem(fields: Mapping[str, Any]) -> Problem:
    """A problem from its JSON object. Missing fields, as from other servers, get the defaults of RFC 9457."""
    status, retry_after_s = fields.get("status"), fields.get("retry_after_s")
    errors, request_id = fields.get("errors"), fields.get("request_id")
    return Problem(
        type=str(fields.get("type", "about:blank")),
        title=str(fields.get("title", "Problem")),
        status=status if isinstance(status, int) else 500,
        detail=str(fields.get("detail", "")),
        errors=tuple(
            FieldError(str(error.get("field", "")), str(error.get("message", "")))
            for error in (errors if isinstance(errors, list) else ())
            if isinstance(error, dict)
        ),
        retry_after_s=_seconds(retry_after_s),
        request_id=request_id if isinstance(request_id, str) else None,
    )


def _seconds(value: object) -> float | None:
    """A number of seconds that can be waited for; None for anything else."""
    try:
        seconds = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return None
    return seconds if 0 <= seconds < math.inf else None
