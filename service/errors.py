"""Errors that are reported to clients, one class per cause. Only `web` turns them into HTTP responses (RFC 9457)."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar, Self


class StartupError(Exception):
    """The service cannot start. The message names the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """A part of a request that is wrong. `field`: where, such as `inputs[2].text_pair`."""

    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Problem:
    """The body of every response that is not an answer (RFC 9457). `type` is for programs, `detail` for people.

    `errors`: the wrong parts of an invalid request. `retry_after_s` and `request_id`: as in the headers Retry-After and
    X-Request-Id.
    """

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[FieldError, ...] | None = None
    retry_after_s: int | None = None
    request_id: str | None = None


class ServiceError(Exception):
    """Base of all errors that a client receives as a problem instead of an answer.

    `title` names the cause, and the problem's type follows from it. `when` describes the cause in the API documentation.
    `outcome` and `rejection` are metric labels. `retry_after_s` becomes the Retry-After header; `headers` are further ones.
    `close_connection`: the request body was not read to its end, so the connection cannot be used again.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    when: ClassVar[str] = ""
    outcome: ClassVar[str] = "error"
    rejection: ClassVar[str | None] = None
    headers: ClassVar[Mapping[str, str]] = {}
    close_connection: ClassVar[bool] = False

    def __init__(self, detail: str, *, errors: Sequence[FieldError] = (), retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        # Rounded up: a client that retries too early only adds to the load.
        self.retry_after_s = None if retry_after_s is None else max(1, math.ceil(retry_after_s))

    @classmethod
    def restored(cls, detail: str, *, retry_after_s: float | None) -> Self:
        """An error of this class that another process raised: from its detail, not from the constructor's arguments."""
        error = cls.__new__(cls)
        ServiceError.__init__(error, detail, retry_after_s=retry_after_s)
        return error

    def problem(self) -> Problem:
        """The error as the client receives it."""
        return problem(self.status, self.title, self.detail, self.errors, self.retry_after_s)


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A type of problem. `when`: the case in which a client receives it."""

    type: str
    title: str
    status: int
    when: str


_HTTP_PROBLEMS = (
    (400, "Bad request", "What came is not HTTP."),
    (404, HTTPStatus.NOT_FOUND.phrase, "There is no such path."),
    (405, HTTPStatus.METHOD_NOT_ALLOWED.phrase, "The path takes other methods."),
    (431, "Head too large", "Request line and headers are longer than a connection takes."),
)
"""Title, status and cause of the problems of requests that no route handles."""


def problem_types() -> list[ProblemType]:
    """All types of problems, by status."""
    # A client that has disconnected reads no documentation of it.
    kinds = [kind for kind in _subclasses(ServiceError) if kind is not ClientGone]
    causes = {kind.title: (kind.status, kind.when) for kind in kinds}
    causes |= {title: (status, when) for status, title, when in _HTTP_PROBLEMS}
    types = [ProblemType(problem_type(title), title, status, when) for title, (status, when) in causes.items()]
    return sorted(types, key=lambda kind: (kind.status, kind.type))


def problem_type(title: str) -> str:
    """The URN of the problems with this title."""
    return f"urn:polytask:{title.lower().replace(' ', '-')}"


def _subclasses(kind: type[ServiceError]) -> list[type[ServiceError]]:
    return [each for child in kind.__subclasses__() for each in (child, *_subclasses(child))]


def problem(
    status: int, title: str, detail: str, errors: Sequence[FieldError] = (), retry_after_s: int | None = None
) -> Problem:
    """A problem whose type follows from its title."""
    return Problem(problem_type(title), title, status, detail, tuple(errors) or None, retry_after_s)


class UnknownTask(ServiceError):
    """No served task has this name."""

    status = 404
    title = "Unknown task"
    when = "No task of this name is served."
    outcome = "invalid"

    def __init__(self, name: str, tasks: Sequence[str]) -> None:
        close = difflib.get_close_matches(name[:80], tasks, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        super().__init__(f"there is no task {name[:80]!r}{hint} Tasks: {', '.join(tasks)}")


class UnknownModel(ServiceError):
    """No version of this name exists, or it is not in memory."""

    status = 404
    title = "Unknown model"
    when = "No such version exists, or it is not in memory."
    outcome = "invalid"


class Conflict(ServiceError):
    """The versions in memory, or a change in progress, do not allow the request."""

    status = 409
    title = "Conflict"
    when = "The versions in memory, or a load in progress, do not allow this."
    outcome = "invalid"


class SingleProcessOnly(ServiceError):
    """Versions can be changed only in single-process mode."""

    status = 501
    title = "Several processes"
    when = "Versions can be changed only in single-process mode."
    outcome = "invalid"

    def __init__(self) -> None:
        super().__init__(
            "versions are changed in the single-process mode alone, without POLYTASK_FRONTENDS and POLYTASK_DEVICES; "
            "here, promote a version and start the service again"
        )


class UnknownVersion(UnknownTask):
    """The task is served, but not in the version in the path. Same type as UnknownTask."""

    def __init__(self, task: str, version: str, served: str) -> None:
        ServiceError.__init__(self, f"task {task!r} is served in version {served}, not {version[:80]!r}")


class InvalidInput(ServiceError):
    """The request body or a header is malformed. `errors` lists the wrong fields."""

    status = 422
    title = "Invalid input"
    when = "The request body or a header does not have the form that the task needs."
    outcome = "invalid"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        first, *others = errors
        more = f" (and {len(others)} more)" if others else ""
        super().__init__(f"{first.field}: {first.message}{more}", errors=errors)


class TooManyInputs(ServiceError):
    """One request has more inputs, candidates or tokens than the service accepts."""

    status = 413
    title = "Too many inputs"
    when = "One request has more inputs, candidates or tokens than the service accepts."
    outcome = "rejected"
    rejection = "too_large"

    def __init__(self, field: str, number: int | str, limit: int, unit: str) -> None:
        message = f"{number} {unit}, the limit is {limit}"
        super().__init__(f"{field}: {message}", errors=[FieldError(field, message)])


class AnswersTooLarge(TooManyInputs):
    """The answers to a request would have more bytes than the service sends. Same type as TooManyInputs."""

    def __init__(self, num_bytes: int, limit: int, remedy: str) -> None:
        message = f"their answers may have {num_bytes} bytes, the limit is {limit}; {remedy}"
        ServiceError.__init__(self, f"inputs: {message}", errors=[FieldError("inputs", message)])


class TooLongToRun(ServiceError):
    """The request would take longer than a deadline, even if it were alone on the device. None of its rows was run."""

    status = 413
    title = "Too long to run"
    when = (
        "The request has more tokens than this machine can run within a deadline, even when it does nothing else. "
        "No part of it was run."
    )
    outcome = "rejected"
    rejection = "too_large"

    def __init__(self, num_tokens: int, most_tokens: int, deadline_s: float) -> None:
        super().__init__(
            f"the request has {num_tokens} tokens, and this machine runs about {most_tokens} of such inputs in the "
            f"{deadline_s:g} s of a deadline; send it in several requests"
        )


class BodyTooLarge(ServiceError):
    """The request body is over the limit. It was not read to its end."""

    status = 413
    title = "Body too large"
    when = "The request body is over the limit; it was not read to its end."
    outcome = "rejected"
    rejection = "too_large"
    close_connection = True

    def __init__(self, limit: int) -> None:
        super().__init__(f"a request body has at most {limit} bytes; split the request")


class UnsupportedEncoding(ServiceError):
    """The body has a Content-Encoding that the service does not read. It was not read."""

    status = 415
    title = "Unsupported encoding"
    when = "The body has another Content-Encoding than gzip, deflate or identity."
    outcome = "invalid"
    headers = {"Accept-Encoding": "gzip, deflate, identity"}  # noqa: RUF012, as in the base

    def __init__(self, encoding: str) -> None:
        super().__init__(f"Content-Encoding: must be gzip, deflate or identity; got {encoding[:40]!r}")


class BrokenEncoding(ServiceError):
    """The body is not what its Content-Encoding says."""

    status = 400
    title = "Broken encoding"
    when = "The body is not what its Content-Encoding says, or is cut off."
    outcome = "invalid"

    def __init__(self, encoding: str) -> None:
        super().__init__(f"the body is not {encoding}, as its Content-Encoding says, or is cut off")


class QueueFull(ServiceError):
    """The queue has no room for the request. None of its rows was run."""

    status = 429
    title = "Queue full"
    when = "The queue is full. No part of the request was run."
    outcome = "rejected"
    rejection = "queue_full"


class TaskQuotaFull(QueueFull):
    """The task's own queue is full. None of the request's rows was run."""

    title = "Task quota full"
    when = "The task's own queue is full. No part of the request was run."
    rejection = "task_quota"


class DeadlineExceeded(ServiceError):
    """The deadline passed before the last row was run."""

    status = 504
    title = "Deadline exceeded"
    when = "The deadline passed before the last row was run."
    outcome = "expired"


class BodyTooSlow(DeadlineExceeded):
    """The deadline passed before the request body had arrived. Same type as DeadlineExceeded."""

    close_connection = True


class NotReady(ServiceError):
    """The service is warming up, or its last batch failed."""

    status = 503
    title = "Not ready"
    when = "The service is warming up, or its last forward failed."
    outcome = "rejected"
    rejection = "not_ready"


class Draining(ServiceError):
    """The service is shutting down: it completes the requests in flight and accepts no others."""

    status = 503
    title = "Shutting down"
    when = "The service is shutting down: it completes the requests in flight and accepts no others."
    outcome = "rejected"
    rejection = "draining"


class ClientGone(ServiceError):
    """The client closed the connection. The response is never sent; 499 is the customary status in logs."""

    status = 499
    title = "Client gone"
    outcome = "cancelled"


class Unauthorized(ServiceError):
    """The request has no API key, or an unknown one. The response does not say which, so that nobody can probe for keys."""

    status = 401
    title = "Unauthorized"
    when = (
        "The request has no API key, or an unknown one. The response does not say which, so that keys cannot be probed."
    )
    outcome = "rejected"
    rejection = "auth"
    headers = {"WWW-Authenticate": "Bearer"}  # noqa: RUF012, as in the base

    def __init__(self) -> None:
        super().__init__("this path needs a key of this service: send `Authorization: Bearer KEY`, or `X-API-Key: KEY`")


class Forbidden(ServiceError):
    """The API key is valid but does not allow this path."""

    status = 403
    title = "Not allowed"
    when = "The API key is valid but does not allow this path."
    outcome = "rejected"
    rejection = "auth"

    def __init__(self) -> None:
        super().__init__("this path needs an admin key")


class RateLimited(ServiceError):
    """The API key has exceeded its request rate. The next request is accepted after `wait_s` seconds."""

    status = 429
    title = "Rate limited"
    when = "The API key has exceeded its request rate. The next request is accepted after `Retry-After` seconds."
    outcome = "rejected"
    rejection = "rate_limited"

    def __init__(self, requests_per_s: float, wait_s: float) -> None:
        super().__init__(f"this key may send {requests_per_s:g} requests a second", retry_after_s=wait_s)


class ConcurrencyLimited(ServiceError):
    """The API key has its maximum number of requests in flight. One of them should end within `wait_s` seconds."""

    status = 429
    title = "Too many at once"
    when = (
        "The API key has its maximum number of requests in flight. One of them should end within `Retry-After` seconds."
    )
    outcome = "rejected"
    rejection = "too_many_at_once"

    def __init__(self, concurrent: int, wait_s: float) -> None:
        super().__init__(f"this key may have {concurrent} requests under way", retry_after_s=wait_s)


class InternalError(ServiceError):
    """The service failed, not the client. `cause` goes to the log under the request id; the client receives only that id.

    `textless`: no message of the cause contains client text. This holds for errors of a device, which sees token ids only.
    """

    when = "The service failed, not the client."

    def __init__(self, cause: BaseException, *, textless: bool = False) -> None:
        self.textless = textless
        self.__cause__ = cause
        super().__init__("the service failed to answer; its log has the reason under the request_id")
