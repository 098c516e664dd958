"""Messages of the HTTP API: requests are built and replies are read here, without I/O."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from polytask_client.errors import (
    BadResponse,
    FieldError,
    InvalidArgument,
    InvalidInput,
    Problem,
    ServiceError,
    read_problem,
    service_error,
)

Input = str | Mapping[str, Any]
"""Input of a task: a text, or an object with the fields of the task's kind."""

_MAX_QUOTED = 200
_MAX_REPORTED = 20


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request. `body`: JSON, or None for a GET."""

    path: str
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response of any status."""

    status: int
    headers: Mapping[str, str]
    content: bytes


def predict_request(
    task: str, inputs: Sequence[Input], options: Mapping[str, Any] | None = None, errors: str | None = None
) -> Request:
    """The request to one task. Raises InvalidInput for inputs that cannot be sent, else InvalidArgument."""
    return Request(f"/v1/tasks/{_quoted_name(task)}/predict", _body(inputs, {}, options, errors))


def predict_tasks_request(
    tasks: Sequence[str], inputs: Sequence[Input], options: Mapping[str, Any] | None = None, errors: str | None = None
) -> Request:
    """The request to several tasks about the same inputs. Raises the errors of `predict_request`."""
    if isinstance(tasks, str):
        raise InvalidArgument(f"tasks must be a list of names; for one task there is predict({tasks!r}, …)")
    if not isinstance(tasks, Iterable):
        raise InvalidArgument("tasks must be a list of names")
    return Request("/v1/predict", _body(inputs, {"tasks": list(tasks)}, options, errors))


def require_several(inputs: object) -> None:
    """Raises InvalidArgument for a single input, as a text would be taken for a list of its characters."""
    if isinstance(inputs, str | bytes | bytearray | Mapping) or not isinstance(inputs, Iterable):
        raise InvalidArgument("inputs must be a list, one answer for each; put a single input in brackets")


def encode(value: object) -> bytes:
    """The value as JSON. Raises TypeError, ValueError or RecursionError for values that JSON or UTF-8 cannot hold."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def json_object(reply: Reply) -> dict[str, Any]:
    """The content of a reply. Raises BadResponse if it is no JSON object."""
    try:
        fields = json.loads(reply.content)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise BadResponse(f"expected a JSON object, got {_quoted(reply)}; is this the address of a Polytask service?")
    return fields


def refusal(reply: Reply) -> ServiceError:
    """The error in a reply, which a proxy may have written instead of the service."""
    try:
        problem = read_problem(json_object(reply))
    except BadResponse:
        problem = Problem("about:blank", _phrase(reply.status), reply.status, _quoted(reply))
    retry_after_s = _seconds(reply.headers.get("retry-after"))
    # The status line counts, as the body may name another status.
    return service_error(
        replace(
            problem,
            status=reply.status,
            retry_after_s=problem.retry_after_s if retry_after_s is None else retry_after_s,
        )
    )


def _body(
    inputs: Sequence[Input], fields: dict[str, Any], options: Mapping[str, Any] | None, errors: str | None
) -> bytes:
    if options is not None:
        if not isinstance(options, Mapping):
            raise InvalidArgument(f"options must be a mapping, got {type(options).__name__}")
        fields["options"] = dict(options)
    if errors is not None:
        fields["errors"] = errors
    try:
        return encode({**fields, "inputs": inputs})
    except Exception:  # noqa: BLE001, an input may be an object that raises anything
        for name, value in fields.items():
            if (reason := _why_not_json(value)) is not None:
                raise InvalidArgument(f"{name} cannot be sent as JSON: {reason}") from None
        raise _unsendable(inputs) from None


def _unsendable(inputs: Sequence[Input]) -> InvalidInput:
    """The error of inputs that JSON cannot hold, as the service would give it."""
    reasons = ((index, _why_not_json(item)) for index, item in enumerate(inputs))
    errors = [FieldError(f"inputs[{index}]", f"cannot be sent as JSON: {why}") for index, why in reasons if why]
    detail = "; ".join(f"{error.field}: {error.message}" for error in errors[:_MAX_REPORTED])
    return InvalidInput(Problem("urn:polytask:invalid-input", "Invalid input", 422, detail, tuple(errors)))


def _why_not_json(value: object) -> str | None:
    """Why a value cannot be sent; None if it can."""
    try:
        encode({"inputs": [value]})  # as deep as in a request
    except UnicodeEncodeError as error:
        return f"{error.object[error.start : error.end]!a} is no character"
    except (TypeError, ValueError, RecursionError) as error:
        return str(error)
    except Exception as error:  # noqa: BLE001, what an object of the caller raises, whose text may raise again
        return type(error).__name__
    return None


def _quoted_name(task: str) -> str:
    if not isinstance(task, str) or _why_not_json(task) is not None:
        raise InvalidArgument(f"a task has a name, got {task!a}")
    return quote(task, safe="")


def _quoted(reply: Reply) -> str:
    text = reply.content[:_MAX_QUOTED].decode(errors="replace").strip()
    return text or "an empty body"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Problem"


def _seconds(retry_after: str | None) -> float | None:
    """The Retry-After header, a number or a date, in seconds from now; None if there is none or it is invalid."""
    if retry_after is None:
        return None
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
