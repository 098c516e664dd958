"""What a client can be told when it gets no answer, one class per cause. Only `web` turns them into responses."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar, Self


class StartupError(Exception):
    """The service cannot start. The message says why and what to do."""


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
    """The client gets a problem instead of an answer.

    `title` names the cause; `outcome` and `rejection` are how the metrics count it; `retry_after_s` goes into the
    Retry-After header, `headers` are further ones. `unread`: the body may go on for ever, so the connection has to end
    with the response.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    outcome: ClassVar[str] = "error"
    rejection: ClassVar[str | None] = None
    headers: ClassVar[Mapping[str, str]] = {}
    close_connection: ClassVar[bool] = False

    def __init__(self, detail: str, *, errors: Sequence[FieldError] = (), retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        # Rounded up: a client that comes back before there is room only adds to the load.
        self.retry_after_s = None if retry_after_s is None else max(1, math.ceil(retry_after_s))

    @classmethod
    def restored(cls, detail: str, *, retry_after_s: float | None) -> Self:
        """An error that another process raised. Its complete `detail` takes the place of the constructor's arguments."""
        error = cls.__new__(cls)
        ServiceError.__init__(error, detail, retry_after_s=retry_after_s)
        return error

    def problem(self) -> Problem:
        """What the client is told."""
        return problem(self.status, self.title, self.detail, self.errors, self.retry_after_s)


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A sort of problem. `when`: in what case a client gets it."""

    type: str
    title: str
    status: int
    when: str


_OF_HTTP = (
    (400, "Bad request", "What came is not HTTP."),
    (404, HTTPStatus.NOT_FOUND.phrase, "There is no such path."),
    (405, HTTPStatus.METHOD_NOT_ALLOWED.phrase, "The path takes other methods."),
    (431, "Head too large", "Request line and headers are longer than a connection takes."),
)
"""Problems of requests that reach no path."""


def problem_types() -> list[ProblemType]:
    """All that there are, by status."""
    # Nobody is there to read that the client has gone.
    kinds = [kind for kind in _subclasses(ServiceError) if kind is not ClientGone]
    found = {kind.title: (kind.status, (kind.__doc__ or "").strip().partition("\n")[0]) for kind in reversed(kinds)}
    found |= {title: (status, when) for status, title, when in _OF_HTTP}
    types = [ProblemType(problem_type(title), title, status, when) for title, (status, when) in found.items()]
    return sorted(types, key=lambda known: (known.status, known.type))


def problem_type(title: str) -> str:
    """The type of the problems with a title."""
    return f"urn:polytask:{title.lower().replace(' ', '-')}"


def _subclasses(kind: type[ServiceError]) -> list[type[ServiceError]]:
    return [found for child in kind.__subclasses__() for found in (child, *_subclasses(child))]


def problem(
    status: int, title: str, detail: str, errors: Sequence[FieldError] = (), retry_after_s: int | None = None
) -> Problem:
    """A problem whose type follows from its title."""
    return Problem(problem_type(title), title, status, detail, tuple(errors) or None, retry_after_s)


class UnknownTask(ServiceError):
    """No task of this name is served."""

    status = 404
    title = "Unknown task"
    outcome = "invalid"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        close = difflib.get_close_matches(name[:80], known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        super().__init__(f"there is no task {name[:80]!r}{hint} Tasks: {', '.join(known)}")


class UnknownModel(ServiceError):
    """No version of this name is there."""

    status = 404
    title = "Unknown model"
    outcome = "invalid"


class Conflict(ServiceError):
    """What is asked for does not go with the versions that are in memory, or with what is being done to them."""

    status = 409
    title = "Conflict"
    outcome = "invalid"


class SingleProcessOnly(ServiceError):
    """Versions are changed only where one process does everything."""

    status = 501
    title = "Several processes"
    outcome = "invalid"

    def __init__(self) -> None:
        super().__init__(
            "versions are changed in the single-process mode alone, without POLYTASK_FRONTENDS and POLYTASK_DEVICES; "
            "here, promote a version and start the service again"
        )


class UnknownVersion(UnknownTask):
    """The task is served, in another version than the one that is asked for."""

    def __init__(self, task: str, asked: str, served: str) -> None:
        ServiceError.__init__(self, f"task {task!r} is served in version {served}, not {asked[:80]!r}")


class InvalidInput(ServiceError):
    """The request does not have the shape that its task needs."""

    status = 422
    title = "Invalid input"
    outcome = "invalid"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        first, *others = errors
        more = f" (and {len(others)} more)" if others else ""
        super().__init__(f"{first.field}: {first.message}{more}", errors=errors)


class TooManyInputs(ServiceError):
    """One request asks for more than the service takes at once."""

    status = 413
    title = "Too many inputs"
    outcome = "rejected"
    rejection = "too_large"

    def __init__(self, field: str, number: int, limit: int, unit: str) -> None:
        message = f"{number} {unit}, the limit is {limit}"
        super().__init__(f"{field}: {message}", errors=[FieldError(field, message)])


class BodyTooLarge(ServiceError):
    """The request body is over the limit; it was not read to its end."""

    status = 413
    title = "Body too large"
    outcome = "rejected"
    rejection = "too_large"
    close_connection = True

    def __init__(self, limit: int) -> None:
        super().__init__(f"a request body has at most {limit} bytes; split the request")


class QueueFull(ServiceError):
    """The line has no room. Nothing of the request was run."""

    status = 429
    title = "Queue full"
    outcome = "rejected"
    rejection = "queue_full"


class TaskQuotaFull(QueueFull):
    """The task has as much in line as it may have. Nothing of the request was run."""

    title = "Task quota full"
    rejection = "task_quota"


class DeadlineExceeded(ServiceError):
    """The deadline passed before the last row was run."""

    status = 504
    title = "Deadline exceeded"
    outcome = "expired"


class BodyTooSlow(DeadlineExceeded):
    """The deadline passed before the request body had arrived."""

    close_connection = True


class NotReady(ServiceError):
    """The service is warming up, or its last forward failed."""

    status = 503
    title = "Not ready"
    outcome = "rejected"
    rejection = "not_ready"


class Draining(ServiceError):
    """The service is shutting down: it answers what it accepted and takes nothing new."""

    status = 503
    title = "Shutting down"
    outcome = "rejected"
    rejection = "draining"


class ClientGone(ServiceError):
    """The client closed the connection. Nobody reads this; the status is the customary one for logs."""

    status = 499
    title = "Client gone"
    outcome = "cancelled"


class Unauthorized(ServiceError):
    """The request has no key, or none that is known. It is not said which: that would help only who has none."""

    status = 401
    title = "Unauthorized"
    outcome = "rejected"
    rejection = "auth"
    headers = {"WWW-Authenticate": "Bearer"}  # noqa: RUF012, as in the base

    def __init__(self) -> None:
        super().__init__("this path needs a key of this service: send `Authorization: Bearer KEY`, or `X-API-Key: KEY`")


class Forbidden(ServiceError):
    """The key is known, and is none that opens this path."""

    status = 403
    title = "Not allowed"
    outcome = "rejected"
    rejection = "auth"

    def __init__(self) -> None:
        super().__init__("this path needs an admin key")


class RateLimited(ServiceError):
    """The key has asked more often than it may. The next request is let in after `wait_s`."""

    status = 429
    title = "Rate limited"
    outcome = "rejected"
    rejection = "rate_limited"

    def __init__(self, requests_per_s: float, wait_s: float) -> None:
        super().__init__(f"this key may send {requests_per_s:g} requests a second", retry_after_s=wait_s)


class ConcurrencyLimited(ServiceError):
    """The key has as many requests under way as it may. One of them should end within `wait_s`."""

    status = 429
    title = "Too many at once"
    outcome = "rejected"
    rejection = "too_many_at_once"

    def __init__(self, concurrent: int, wait_s: float) -> None:
        super().__init__(f"this key may have {concurrent} requests under way", retry_after_s=wait_s)


class InternalError(ServiceError):
    """The service failed, not the client.

    `cause` is why. The log has the trace under the id of the request, the client only that id.

    `textless`: whether the messages of the cause are free of texts of the client, as those of a device are, which sees none.
    """

    def __init__(self, cause: BaseException, *, textless: bool = False) -> None:
        self.textless = textless
        self.__cause__ = cause
        super().__init__("the service failed to answer; its log has the reason under the request_id")
