"""Parsing of request bodies into inputs: in one pass if the body is valid, item by item to find out what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from polytask.model.encoding import Input
from polytask.model.tasks import CANDIDATE_KINDS, Kind, Task
from polytask.service.api.options import Options
from polytask.service.api.schemas import (
    AnyRequest,
    LoadRequest,
    OnError,
    PredictRequest,
    TaggingRequest,
    TasksRequest,
    TextRequest,
    field_names,
    request_models,
    to_input,
)
from polytask.service.api.surrogates import HALF_A_PAIR, about_surrogate, lone_surrogate, read_with_surrogates
from polytask.service.errors import FieldError, InvalidInput, ServiceError, TooManyInputs, UnknownTask

_MAX_REPORTED = 20

_MAX_NAME = 80
"""Characters of a name that are repeated in an error. A client may have sent half a million."""

_MAX_EXPLAINED = 1000
"""Errors of a body above which none is explained. Pydantic explains all or none, at 1 to 2 µs each."""

_Request = TypeVar("_Request", bound=AnyRequest)

_TAGS = ("<string>", "<object>", "<words>")


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A parsed body. `items`: inputs; with `per_item`, an invalid one is replaced by its error."""

    items: list[Input | ServiceError]
    options: Options | None
    per_item: bool


def parse(task: Task, body: bytes, *, max_inputs: int, max_candidates: int) -> ParsedRequest:
    """Parses a body for `task`. Raises InvalidInput, which names the field, or TooManyInputs."""
    request_model, _ = request_models(task)
    try:
        request = request_model.model_validate_json(body)
    except ValidationError as error:
        unchecked = _parse_unchecked(body, error)
        if unchecked is None:
            raise InvalidInput(_field_errors(error, task)) from None
        return _item_by_item(task, unchecked, max_inputs, max_candidates)
    _require_max_inputs(request.inputs, max_inputs)
    items: list[Input | ServiceError] = [to_input(item) for item in request.inputs]
    _check_candidates(task, items, max_candidates, per_item=request.errors is OnError.PER_ITEM)
    return ParsedRequest(items, request.options, request.errors is OnError.PER_ITEM)


def parse_for_tasks(
    tasks: Mapping[str, Task], body: bytes, *, max_inputs: int, max_candidates: int
) -> tuple[list[str], ParsedRequest]:
    """Parses a body that names its tasks. Returns their names and the request.

    Raises UnknownTask, InvalidInput, which names the field, or TooManyInputs.
    """
    try:
        request = _validated(TasksRequest, body)
    except ValidationError as error:
        raise InvalidInput(_field_errors(error, None)) from None
    for index, name in enumerate(request.tasks):
        if name not in tasks:
            raise UnknownTask(name, list(tasks))
        if name in request.tasks[:index]:
            raise InvalidInput([FieldError(f"tasks[{index}]", f"{name!r} is there twice")])
    strictest = _strictest([tasks[name] for name in request.tasks])
    return request.tasks, _item_by_item(strictest, request, max_inputs, max_candidates)


def parse_load(body: bytes) -> LoadRequest:
    """Parses a body of a load request. Raises InvalidInput, which names the field."""
    try:
        return LoadRequest.model_validate_json(body)
    except ValidationError as error:
        whole = "a request has model, and may have tolerances"
        messages = {"missing": f"is required: {whole}", "extra_forbidden": f"is not a field: {whole}"}
        raise InvalidInput(
            [
                FieldError(_path(detail["loc"]), messages.get(detail["type"], detail["msg"]))
                for detail in error.errors(include_url=False, include_input=False)[:_MAX_REPORTED]
            ]
        ) from None


def _strictest(tasks: list[Task]) -> Task:
    """The task whose inputs all others accept as well. Raises InvalidInput if there is none."""
    by_request: dict[type[PredictRequest], Task] = {}
    for task in tasks:
        by_request.setdefault(request_models(task)[0], task)
    # A tagging task accepts the inputs of a task on one text, and words in addition.
    if by_request.keys() == {TextRequest, TaggingRequest}:
        del by_request[TaggingRequest]
    if len(by_request) > 1:
        reads = "; ".join(f"{task.name!r} reads {field_names(task)}" for task in by_request.values())
        raise InvalidInput(
            [FieldError("tasks", f"do not read the same inputs, so they need calls of their own: {reads}")]
        )
    return next(iter(by_request.values()))


def _parse_unchecked(body: bytes, error: ValidationError) -> AnyRequest | None:
    """The request with unchecked inputs, if one by one they say more than `error`, and it is valid otherwise."""
    try:
        request = _validated(AnyRequest, body)
    except ValidationError:
        return None
    return request if request.errors is OnError.PER_ITEM or about_surrogate(error) else None


def _validated(model: type[_Request], body: bytes) -> _Request:
    """The request in a body, whose inputs may have lone surrogates: only these are to be refused."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        if not about_surrogate(error):
            raise
        try:
            values = read_with_surrogates(body)
        except ValueError:
            raise error from None
        return model.model_validate(values)


def _item_by_item(task: Task, request: AnyRequest, max_inputs: int, max_candidates: int) -> ParsedRequest:
    _require_max_inputs(request.inputs, max_inputs)
    item_model = _item_model(request_models(task)[0])
    per_item = request.errors is OnError.PER_ITEM
    items: list[Input | ServiceError] = []
    errors: list[FieldError] = []
    for index, value in enumerate(request.inputs):
        place = lone_surrogate(value, f"inputs[{index}]")
        item_errors = [] if place is None else [FieldError(place, HALF_A_PAIR)]
        try:
            item = to_input(item_model.validate_python(value))
        except ValidationError as error:
            item_errors = item_errors or _field_errors(error, task, ("inputs", index))
        items.append(InvalidInput(item_errors) if item_errors else item)
        errors += item_errors
    if errors and not per_item:
        raise InvalidInput(errors[:_MAX_REPORTED])
    _check_candidates(task, items, max_candidates, per_item=per_item)
    return ParsedRequest(items, request.options, per_item)


@cache
def _item_model(request_model: type[PredictRequest]) -> TypeAdapter[Any]:
    (items,) = request_model.model_fields["inputs"].annotation.__args__  # type: ignore[union-attr]
    return TypeAdapter(items)


def _require_max_inputs(inputs: list[Any], max_inputs: int) -> None:
    if len(inputs) > max_inputs:
        raise TooManyInputs("inputs", len(inputs), max_inputs, "inputs")


def _check_candidates(task: Task, items: list[Input | ServiceError], max_candidates: int, *, per_item: bool) -> None:
    """Replaces inputs of too many candidates by errors if `per_item`, otherwise raises the first error."""
    if task.kind not in CANDIDATE_KINDS:
        return
    name = "choices" if task.kind is Kind.MULTIPLE_CHOICE else "candidates"
    for index, item in enumerate(items):
        if isinstance(item, Input) and len(item.candidates) > max_candidates:
            error = TooManyInputs(f"inputs[{index}].{name}", len(item.candidates), max_candidates, name)
            if not per_item:
                raise error
            items[index] = error


def _field_errors(error: ValidationError, task: Task | None, prefix: tuple[str | int, ...] = ()) -> list[FieldError]:
    """Pydantic's errors in the client's terms, at most _MAX_REPORTED. `prefix`: where the value stands in the body."""
    if error.error_count() > _MAX_EXPLAINED:
        return [FieldError(_path(prefix), f"has {error.error_count()} errors; send less of it to see what is wrong")]
    details = error.errors(include_url=False, include_input=False)[:_MAX_REPORTED]
    return [_field_error(detail, task, (*prefix, *detail["loc"])) for detail in details]


def _field_error(detail: ErrorDetails, task: Task | None, path: tuple[str | int, ...]) -> FieldError:
    location = [part for part in path if part not in _TAGS]
    if location[:1] == ["options"]:
        whole, or_string = f"options are {', '.join(Options.model_fields)}", ""
    elif task is None or len(location) <= 1:
        fields = "inputs" if task else "tasks and inputs"
        whole, or_string = f"a request has {fields}, and may have options and errors", ""
    else:
        whole = f"an input of {task.name!r} has {field_names(task)}"
        or_string = "" if task.pair else "a string or "
    min_length = detail.get("ctx", {}).get("min_length")
    message = {
        "too_short": f"must have at least {min_length} item{'' if min_length == 1 else 's'}",
        "missing": f"is required: {whole}",
        "extra_forbidden": f"is not a field: {whole}",
        "model_type": f"must be {or_string}an object: {whole}",
    }.get(detail["type"], detail["msg"])
    return FieldError(_path(location), message)


def _path(location: Sequence[str | int]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part[:_MAX_NAME]}" for part in location)
    path = "".join(parts).removeprefix(".")
    # The name of an unknown field may have a lone surrogate.
    return path.encode(errors="backslashreplace").decode() or "body"
