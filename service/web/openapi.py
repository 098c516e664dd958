"""What FastAPI cannot know for the OpenAPI document: bodies that are read and written by hand, problems, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, get_args

import msgspec
from pydantic import TypeAdapter

from polytask.model.answers import Answer
from polytask.service.api.responses import PredictResponse, ReadToken, TasksResponse
from polytask.service.api.schemas import LoadRequest, PredictRequest, TasksRequest
from polytask.service.api.task_info import TaskInfo
from polytask.service.api.tensors import BINARY, InferenceRequest, InferenceResponse
from polytask.service.errors import (
    ConcurrencyLimited,
    Problem,
    ProblemType,
    RateLimited,
    Unauthorized,
    UnknownModel,
    UnknownTask,
    problem_types,
)

PROBLEM = "application/problem+json"

_NO_PATH = HTTPStatus.NOT_FOUND.phrase
_OF_KEYS = {error.title for error in (Unauthorized, RateLimited, ConcurrencyLimited)}
_KEYED = ("/v1/", "/v2/models/", "/admin/")
_LOAD = "/admin/models/load"
_REF = "#/components/schemas/{model}"

_TENSORS = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["Where is my new card?"]}]}

Schema = dict[str, Any]


def of_other_protocol(path: str) -> bool:
    """Whether a path is of another inference protocol, which has errors of its own shape: a message alone."""
    if path.startswith("/v2"):
        return path[3:4] in {"", "/"}
    return path.startswith("/v1/models/") and path.endswith(":predict")


def complete(
    document: Schema, tasks: Mapping[str, TaskInfo], responses: Mapping[str, Any], *, keyed: bool = False
) -> None:
    """Adds to the document of an application what requests and responses look like, with an example for each task.

    `responses`: those to the examples in `tasks`, by task, as far as they are known. `keyed`: whether its paths need an
    API key; then it has nothing of the tasks, as it is open itself, and an example may come from somebody's data.
    """
    if keyed:
        tasks, responses = {}, {}
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    # The framework's own errors are answered as problems, too.
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    _describe_predictions(document, tasks, responses)
    if _LOAD in document["paths"]:
        document["paths"][_LOAD]["post"]["requestBody"] = _body(_define(document, LoadRequest), {}, {})
    _describe_other_protocols(document, tasks)
    _describe_problems(document, keyed=keyed)


def _describe_predictions(document: Schema, tasks: Mapping[str, TaskInfo], responses: Mapping[str, Any]) -> None:
    schemas, paths = document["components"]["schemas"], document["paths"]
    one, several = _define(document, PredictResponse), _define(document, TasksResponse)
    answer = {"anyOf": [*(_define_answer(document, kind) for kind in get_args(Answer)), _define_refusal(document)]}
    for name in ("PredictResponse", "TaskAnswers"):
        schemas[name]["properties"]["answers"]["items"] = answer
    request, request_of_several = _define(document, PredictRequest), _define(document, TasksRequest)
    inputs = [schemas[name.rpartition("/")[2]]["properties"]["inputs"]["items"] for name in _references(request)]
    shapes = {str(shape): shape for items in inputs for shape in items.get("oneOf", [items])}
    schemas["TasksRequest"]["properties"]["inputs"]["items"] = {"anyOf": list(shapes.values())}
    operation = paths["/v1/tasks/{task}/predict"]["post"]
    operation["requestBody"] = _body(request, {name: task.example for name, task in tasks.items()}, tasks)
    operation["responses"]["200"] |= _body(one, responses, tasks)
    operation = paths["/v1/predict"]["post"]
    operation["requestBody"] = _body(request_of_several, {"together": _together(tasks)} if tasks else {}, {})
    operation["responses"]["200"] |= {"content": {"application/json": {"schema": several}}}


def _describe_other_protocols(document: Schema, tasks: Mapping[str, TaskInfo]) -> None:
    schemas, paths = document["components"]["schemas"], document["paths"]
    types = [InferenceRequest, InferenceResponse]
    (request, response), defined = msgspec.json.schema_components(types, ref_template=_REF.replace("model", "name"))
    schemas |= defined
    operation = paths["/v2/models/{task}/infer"]["post"]
    binary = {BINARY: {"schema": {"type": "string", "format": "binary"}}}
    operation["requestBody"] = _body(request, {"texts": _TENSORS}, {})
    operation["responses"]["200"] |= {"content": {"application/json": {"schema": response}} | binary}
    operation = paths["/v1/models/{task}:predict"]["post"]
    inputs, answers = schemas["TasksRequest"]["properties"]["inputs"], schemas["TaskAnswers"]["properties"]["answers"]
    examples = {name: {"instances": task.example["inputs"]} for name, task in tasks.items()}
    schemas["InstancesRequest"] = _object("InstancesRequest", instances=inputs) | {"additionalProperties": False}
    schemas["PredictionsResponse"] = _object("PredictionsResponse", predictions=answers)
    schemas["ErrorMessage"] = _object("ErrorMessage", error={"type": "string"})
    operation["requestBody"] = _body(_reference("InstancesRequest"), examples, tasks)
    operation["responses"]["200"] |= {"content": {"application/json": {"schema": _reference("PredictionsResponse")}}}


def _object(title: str, **properties: Schema) -> Schema:
    return {"type": "object", "title": title, "properties": properties, "required": list(properties)}


def _reference(name: str) -> Schema:
    return {"$ref": _REF.format(model=name)}


def _body(schema: Schema, examples: Mapping[str, Any], tasks: Mapping[str, TaskInfo]) -> Schema:
    shown = {
        name: {"summary": f"{name} ({tasks[name].kind})" if name in tasks else name, "value": value}
        for name, value in examples.items()
    }
    return {"required": True, "content": {"application/json": {"schema": schema, "examples": shown}}}


def _together(tasks: Mapping[str, TaskInfo]) -> Any:
    """A request for up to three tasks that read the same."""
    alike: dict[str, list[str]] = {}
    for name, task in tasks.items():
        alike.setdefault(str([field.name for field in task.input_fields]), []).append(name)
    names = max(alike.values(), key=len)[:3]
    return {"tasks": names, "inputs": tasks[names[0]].example["inputs"]}


def _define_answer(document: Schema, kind: Any) -> Schema:
    """The schema of an answer, and what is told of every answer."""
    reference = _define(document, kind)
    schema = document["components"]["schemas"][kind.__name__]
    token = _define(document, ReadToken)
    schema["properties"] |= {
        "tokens": {"type": "integer", "description": "that were read, in all rows of the input"},
        "dropped_tokens": {"type": "integer", "description": "that were cut off, as a row had no room for them"},
        "read": {
            "type": "array",
            "items": {"type": "array", "items": token},
            "description": "with `return_tokens`: the tokens of each row",
        },
    }
    schema["required"] += ["tokens", "dropped_tokens"]
    return reference


def _define_refusal(document: Schema) -> Schema:
    document["components"]["schemas"]["RefusedInput"] = {
        "type": "object",
        "title": "RefusedInput",
        "description": "With `errors: per_item`, in the place of the answer to a bad input.",
        "properties": {"error": _define(document, Problem)},
        "required": ["error"],
    }
    return _reference("RefusedInput")


def _describe_problems(document: Schema, *, keyed: bool) -> None:
    problem, types = _define(document, Problem), problem_types()
    schema = document["components"]["schemas"]["Problem"]
    schema["properties"]["type"]["enum"] = [known.type for known in types]
    schema["description"] += "\n\nThere are no other types than these:\n\n| type | status | when |\n|---|---|---|\n"
    schema["description"] += "\n".join(f"| `{known.type}` | {known.status} | {known.when} |" for known in types)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            # No parameter in a path can be malformed.
            if "requestBody" not in operation:
                responses.pop("422", None)
            own = [known for known in types if known.title != _NO_PATH and str(known.status) in {*responses, "500"}]
            other = UnknownModel.title if "/models" not in path or of_other_protocol(path) else UnknownTask.title
            own = [known for known in own if known.title not in {*_OF_KEYS, other}]
            if keyed and path.startswith(_KEYED):
                own += [known for known in types if known.title in _OF_KEYS]
            for status in sorted({str(known.status) for known in own}):
                its = [known for known in own if str(known.status) == status]
                told = {"description": " / ".join(known.when for known in its)}
                if of_other_protocol(path):
                    responses.pop(status, None)
                    message = {"application/json": {"schema": _reference("ErrorMessage")}}
                    responses["400" if status == "422" else status] = told | {"content": message}
                else:
                    responses[status] = told | {"content": {PROBLEM: {"schema": problem, "examples": _examples(its)}}}


def _examples(types: Sequence[ProblemType]) -> Schema:
    return {
        known.type: {
            "summary": known.title,
            "value": {"type": known.type, "title": known.title, "status": known.status, "detail": known.when},
        }
        for known in types
    }


def _references(schema: Schema) -> list[str]:
    return [one["$ref"] for one in schema["anyOf"]]


def _define(document: Schema, model: Any) -> Schema:
    """Puts the schemas of `model` among the document's components; returns the schema that refers to them."""
    schema = TypeAdapter(model).json_schema(ref_template=_REF)
    schemas = document["components"]["schemas"]
    for name, inner in schema.pop("$defs", {}).items():
        schemas.setdefault(name, inner)
    if "title" not in schema:
        return schema
    schemas.setdefault(schema["title"], schema)
    return _reference(schema["title"])
