"""Messages of the HTTP API: requests are built and replies are read here, without I/O."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from polytask_client.errors import BadResponse, Problem, ServiceError, read_problem, service_error

Input = str | Mapping[str, Any]
"""Input of a task: a text, or an object with the fields of the task's kind."""

_MAX_QUOTED = 200


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
    """The request to one task. Raises TypeError or ValueError for values that cannot be sent."""
    return Request(f"/v1/tasks/{quote(task, safe='')}/predict", _body(inputs, {}, options, errors))


def predict_tasks_request(
    tasks: Sequence[str], inputs: Sequence[Input], options: Mapping[str, Any] | None = None, errors: str | None = None
) -> Request:
    """The request to several tasks about the same inputs. Raises TypeError or ValueError as `predict_request` does."""
    if isinstance(tasks, str):
        raise TypeError(f"tasks must be a list of names; for one task there is predict({tasks!r}, …)")
    return Request("/v1/predict", _body(inputs, {"tasks": list(tasks)}, options, errors))


def refuse_single(inputs: object) -> None:
    """Raises TypeError for a single input, as a text would be taken for a list of its characters."""
    if isinstance(inputs, str | bytes | Mapping):
        raise TypeError("inputs must be a list, one answer for each; put a single input in brackets")


def encode(value: object) -> bytes:
    """The value as JSON. Raises TypeError or ValueError for values that JSON or UTF-8 cannot hold."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def json_object(reply: Reply) -> dict[str, Any]:
    """The content of a reply. Raises BadResponse if it is no JSON object."""
    try:
        fields = json.loads(reply.content)
    except ValueError:
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
    refuse_single(inputs)
    fields["inputs"] = list(inputs)
    if options is not None:
        fields["options"] = dict(options)
    if errors is not None:
        fields["errors"] = errors
    return encode(fields)


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
    except ValueError:
        return None
