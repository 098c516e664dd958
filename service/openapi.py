"""What FastAPI cannot know for the OpenAPI document: the bodies are read by hand, and problems have a type of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from service.catalogue import TaskInfo
from service.errors import Problem
from service.schemas import PredictRequest

PROBLEM = "application/problem+json"

_REF = "#/components/schemas/{model}"


def complete(app: FastAPI, tasks: Mapping[str, TaskInfo], *, keyed: bool = False) -> None:
    """Adds the request bodies, with an example for each task, and the problems to the document of `app`.

    `keyed`: whether its paths need an API key.
    """
    document = app.openapi()
    request_schema = _define(document, PredictRequest)
    problem_schema = _define(document, Problem)
    document["paths"]["/v1/tasks/{task}/predict"]["post"]["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {
                "schema": request_schema,
                "examples": {name: {"value": task.example} for name, task in tasks.items()},
            }
        },
    }
    if keyed:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    # The framework's own errors are answered as problems, too.
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if status >= "400":
                    response["content"] = {PROBLEM: {"schema": problem_schema}}


def _define(document: dict[str, Any], model: Any) -> dict[str, Any]:
    """Puts the schemas of `model` among the document's components; returns the schema that refers to them."""
    schema = TypeAdapter(model).json_schema(ref_template=_REF)
    document["components"]["schemas"] |= schema.pop("$defs", {})
    if "title" not in schema:
        return schema
    document["components"]["schemas"][schema["title"]] = schema
    return {"$ref": _REF.format(model=schema["title"])}
