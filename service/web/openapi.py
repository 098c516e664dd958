"""OpenAPI document: adds what FastAPI cannot derive, which are bodies parsed and encoded by hand, problems and examples."""

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

_NOT_FOUND = HTTPStatus.NOT_FOUND.phrase
_KEY_PROBLEMS = {error.title for error in (Unauthorized, RateLimited, ConcurrencyLimited)}
_KEY_PATHS = ("/v1/", "/v2/models/", "/admin/")
_LOAD = "/admin/models/load"
_REF = "#/components/schemas/{model}"

_PUBLISHED_NAMES = {"LoadStatus": "Load", "TaskDrift": "Shift"}
"""Names of schemas in the document where they differ from the class names. Generated clients depend on them."""

_TENSORS = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["Where is my new card?"]}]}

Schema = dict[str, Any]


def is_inference_protocol(path: str) -> bool:
    """Whether a path belongs to another inference protocol. Its errors have their own shape: only a message."""
    if path.startswith("/v2"):
        return path[3:4] in {"", "/"}
    # Those of KServe's v1 have one part more, a card has three.
    return path.startswith("/v1/models/") and path.count("/") == 3


def complete_document(
    document: Schema, tasks: Mapping[str, TaskInfo], responses: Mapping[str, Any], *, needs_key: bool = False
) -> None:
    """Adds schemas of requests, responses and problems to the document, with an example for each task.

    `responses`: responses to the examples in `tasks`, by task; some may be missing. `needs_key`: the service has API
    keys. The document itself is public, so it then shows no task and no example, which may come from private data.
    """
    _publish_names(document)
    if needs_key:
        tasks, responses = {}, {}
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    # FastAPI's own errors are reported as problems, too.
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    _describe_predictions(document, tasks, responses)
    if _LOAD in document["paths"]:
        document["paths"][_LOAD]["post"]["requestBody"] = _body(_define(document, LoadRequest), {}, {})
    _describe_inference_protocols(document, tasks)
    _describe_problems(document, needs_key=needs_key)


def _publish_names(document: Schema) -> None:
    schemas = document["components"]["schemas"]
    for name, published in _PUBLISHED_NAMES.items():
        if name in schemas:
            schemas[published] = schemas.pop(name) | {"title": published}
            _replace_reference(document, _REF.format(model=name), _REF.format(model=published))
    document["components"]["schemas"] = dict(sorted(schemas.items()))


def _replace_reference(value: Any, reference: str, replacement: str) -> None:
    if isinstance(value, dict):
        if value.get("$ref") == reference:
            value["$ref"] = replacement
        for entry in value.values():
            _replace_reference(entry, reference, replacement)
    elif isinstance(value, list):
        for entry in value:
            _replace_reference(entry, reference, replacement)


def _describe_predictions(document: Schema, tasks: Mapping[str, TaskInfo], responses: Mapping[str, Any]) -> None:
    schemas, paths = document["components"]["schemas"], document["paths"]
    response, tasks_response = _define(document, PredictResponse), _define(document, TasksResponse)
    answer = {
        "anyOf": [*(_define_answer(document, kind) for kind in get_args(Answer)), _define_refused_input(document)]
    }
    for name in ("PredictResponse", "TaskAnswers"):
        schemas[name]["properties"]["answers"]["items"] = answer
    request, tasks_request = _define(document, PredictRequest), _define(document, TasksRequest)
    inputs = [schemas[name.rpartition("/")[2]]["properties"]["inputs"]["items"] for name in _references(request)]
    shapes = {str(shape): shape for items in inputs for shape in items.get("oneOf", [items])}
    schemas["TasksRequest"]["properties"]["inputs"]["items"] = {"anyOf": list(shapes.values())}
    operation = paths["/v1/tasks/{task}/predict"]["post"]
    operation["requestBody"] = _body(request, {name: task.example for name, task in tasks.items()}, tasks)
    operation["responses"]["200"] |= _body(response, responses, tasks)
    operation = paths["/v1/predict"]["post"]
    operation["requestBody"] = _body(tasks_request, {"together": _tasks_example(tasks)} if tasks else {}, {})
    operation["responses"]["200"] |= {"content": {"application/json": {"schema": tasks_response}}}


def _describe_inference_protocols(document: Schema, tasks: Mapping[str, TaskInfo]) -> None:
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
    named_examples = {
        name: {"summary": f"{name} ({tasks[name].kind})" if name in tasks else name, "value": value}
        for name, value in examples.items()
    }
    return {"required": True, "content": {"application/json": {"schema": schema, "examples": named_examples}}}


def _tasks_example(tasks: Mapping[str, TaskInfo]) -> Any:
    """A request for up to three tasks that read the same input fields."""
    by_fields: dict[str, list[str]] = {}
    for name, task in tasks.items():
        by_fields.setdefault(str([field.name for field in task.input_fields]), []).append(name)
    names = max(by_fields.values(), key=len)[:3]
    return {"tasks": names, "inputs": tasks[names[0]].example["inputs"]}


def _define_answer(document: Schema, kind: Any) -> Schema:
    """The schema of an answer, with the fields that every answer has."""
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


def _define_refused_input(document: Schema) -> Schema:
    document["components"]["schemas"]["RefusedInput"] = {
        "type": "object",
        "title": "RefusedInput",
        "description": "With `errors: per_item`, in the place of the answer to a bad input.",
        "properties": {"error": _define(document, Problem)},
        "required": ["error"],
    }
    return _reference("RefusedInput")


def _describe_problems(document: Schema, *, needs_key: bool) -> None:
    problem, types = _define(document, Problem), problem_types()
    schema = document["components"]["schemas"]["Problem"]
    schema["properties"]["type"]["enum"] = [kind.type for kind in types]
    schema["description"] += "\n\nThere are no other types than these:\n\n| type | status | when |\n|---|---|---|\n"
    schema["description"] += "\n".join(f"| `{kind.type}` | {kind.status} | {kind.when} |" for kind in types)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            # Path parameters cannot be malformed.
            if "requestBody" not in operation:
                responses.pop("422", None)
            for status, kinds in _problems_of(path, responses, types, needs_key=needs_key).items():
                description = {"description": " / ".join(kind.when for kind in kinds)}
                if is_inference_protocol(path):
                    responses.pop(status, None)
                    content = {"application/json": {"schema": _reference("ErrorMessage")}}
                    responses["400" if status == "422" else status] = description | {"content": content}
                else:
                    content = {PROBLEM: {"schema": problem, "examples": _examples(kinds)}}
                    responses[status] = description | {"content": content}


def _problems_of(
    path: str, responses: Schema, types: Sequence[ProblemType], *, needs_key: bool
) -> dict[str, list[ProblemType]]:
    """Problems of an operation by status: those with a status that its route declares, 500, and those of API keys."""
    excluded = UnknownModel.title if "/models" not in path or is_inference_protocol(path) else UnknownTask.title
    statuses = {*responses, "500"}
    kinds = [kind for kind in types if str(kind.status) in statuses]
    kinds = [kind for kind in kinds if kind.title not in {*_KEY_PROBLEMS, _NOT_FOUND, excluded}]
    if needs_key and path.startswith(_KEY_PATHS):
        kinds += [kind for kind in types if kind.title in _KEY_PROBLEMS]
    by_status: dict[str, list[ProblemType]] = {}
    for kind in sorted(kinds, key=lambda kind: str(kind.status)):
        by_status.setdefault(str(kind.status), []).append(kind)
    return by_status


def _examples(types: Sequence[ProblemType]) -> Schema:
    return {
        kind.type: {
            "summary": kind.title,
            "value": {"type": kind.type, "title": kind.title, "status": kind.status, "detail": kind.when},
        }
        for kind in types
    }


def _references(schema: Schema) -> list[str]:
    return [alternative["$ref"] for alternative in schema["anyOf"]]


def _define(document: Schema, model: Any) -> Schema:
    """Adds the schemas of `model` to the document's components. Returns a schema that refers to them."""
    schema = TypeAdapter(model).json_schema(ref_template=_REF)
    schemas = document["components"]["schemas"]
    for name, inner in schema.pop("$defs", {}).items():
        schemas.setdefault(name, inner)
    if "title" not in schema:
        return schema
    schemas.setdefault(schema["title"], schema)
    return _reference(schema["title"])
