"""The HTTP interface as clients know it. A line that changes here breaks somebody: it needs a reason and a changelog entry."""

from __future__ import annotations

from typing import Any

import pytest

from service.app import assemble
from service.settings import Settings
from tests.service import checkpoints
from tests.service.doubles import real_runner

PATHS = {
    "GET /v1/tasks": {"200": "TaskList"},
    "GET /v1/tasks/{task}": {"200": "TaskInfo", "404": "Problem", "422": "Problem"},
    "POST /v1/tasks/{task}/predict": {
        "200": "PredictResponse",
        "404": "Problem",
        "413": "Problem",
        "422": "Problem",
        "429": "Problem",
        "500": "Problem",
        "503": "Problem",
        "504": "Problem",
    },
    "GET /livez": {"200": "{string}"},
    "GET /readyz": {"200": "{string}", "503": "Problem"},
    "GET /metrics": {"200": "string"},
}

REQUESTS = {
    "TextRequest": {"inputs": "[string | TextInput]"},
    "PairRequest": {"inputs": "[PairInput]"},
    "RankingRequest": {"inputs": "[RankingInput]"},
    "ChoiceRequest": {"inputs": "[ChoiceInput]"},
    "TaggingRequest": {"inputs": "[string | TextInput | TokensInput]"},
    "SpanRequest": {"inputs": "[SpanInput]"},
    "TextInput": {"text": "string"},
    "PairInput": {"text": "string", "text_pair": "string"},
    "RankingInput": {"query": "string", "candidates": "[string]"},
    "ChoiceInput": {"text": "string", "question?": "string | null", "choices": "[string]"},
    "TokensInput": {"tokens": "[string]"},
    "SpanInput": {"question": "string", "context": "string"},
}

RESPONSES = {
    "PredictResponse": {
        "task": "string",
        "model": "string",
        "answers": "[ClassificationAnswer | MultilabelAnswer | RegressionAnswer | RankingAnswer | MultipleChoiceAnswer"
        " | TaggingAnswer | SpanAnswer]",
        "truncated": "[integer]",
    },
    "ClassificationAnswer": {"label": "string", "score": "number", "scores": "{number}"},
    "MultilabelAnswer": {"labels": "[LabelScore]", "scores": "{number}"},
    "LabelScore": {"label": "string", "score": "number"},
    "RegressionAnswer": {"value": "number"},
    "RankingAnswer": {"ranking": "[RankedCandidate]"},
    "RankedCandidate": {"index": "integer", "text": "string", "score": "number"},
    "MultipleChoiceAnswer": {"choice": "integer", "text": "string", "scores": "[number]"},
    "TaggingAnswer": {"entities": "[Entity]"},
    "Entity": {"text": "string", "label": "string", "start": "integer", "end": "integer", "score": "number"},
    "SpanAnswer": {"text": "string", "start": "integer", "end": "integer", "score": "number"},
    "Problem": {
        "type": "string",
        "title": "string",
        "status": "integer",
        "detail": "string",
        "errors?": "[FieldError] | null",
        "retry_after_s?": "integer | null",
        "request_id?": "string | null",
    },
    "FieldError": {"field": "string", "message": "string"},
    "TaskList": {"model": "string", "tasks": "[TaskInfo]"},
    "TaskInfo": {
        "name": "string",
        "kind": "Kind",
        "labels": "[string]",
        "thresholds": "{number} | null",
        "value_range": "[number, number] | null",
        "input_fields": "[InputField]",
        "input_may_be_a_string": "boolean",
        "limits": "Limits",
        "example": "{any}",
        "metrics": "{number}",
        "baselines": "{number}",
    },
    "Limits": {
        "max_tokens": "integer",
        "max_inputs": "integer",
        "max_candidates": "integer",
        "max_body_bytes": "integer",
        "max_deadline_s": "number",
    },
    "InputField": {"name": "string", "type": "string", "required": "boolean", "description": "string"},
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The OpenAPI document of a service."""
    _, app = assemble(checkpoints.in_memory(), Settings(), real_runner())
    return app.openapi()


def written(schema: dict[str, Any]) -> str:
    """A schema in one line. An optional field of an object has a question mark."""
    for alternatives in ("anyOf", "oneOf"):
        if alternatives in schema:
            return " | ".join(map(written, schema[alternatives]))
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if schema.get("type") == "array":
        return f"[{', '.join(map(written, schema.get('prefixItems') or [schema['items']]))}]"
    if schema.get("type") == "object":
        inner = schema["additionalProperties"]
        return f"{{{written(inner) if isinstance(inner, dict) else 'any'}}}"
    return str(schema["type"])


def test_the_paths_and_what_they_answer(document: dict[str, Any]) -> None:
    """These are all paths, with these statuses, and everything that is not an answer is a problem."""
    found: dict[str, dict[str, str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            responses = found.setdefault(f"{method.upper()} {path}", {})
            for status, response in operation["responses"].items():
                ((media_type, content),) = response["content"].items()
                responses[status] = written(content["schema"])
                assert (media_type == "application/problem+json") == (status >= "400")
    assert found == PATHS


def test_the_fields_of_everything(document: dict[str, Any]) -> None:
    """Requests refuse other fields than these; responses have these."""
    found = {}
    for name, schema in document["components"]["schemas"].items():
        if "properties" in schema:
            required = schema.get("required", [])
            found[name] = {
                field if field in required else f"{field}?": written(value)
                for field, value in schema["properties"].items()
            }
            assert (schema.get("additionalProperties") is False) == (name in REQUESTS)
    assert found == REQUESTS | RESPONSES


def test_the_request_body_and_header_of_predict(document: dict[str, Any]) -> None:
    """The body is one of the requests, with an example for each task; the deadline comes in a header."""
    operation = document["paths"]["/v1/tasks/{task}/predict"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    assert written(content["schema"]) == " | ".join(name for name in REQUESTS if name.endswith("Request"))
    assert list(content["examples"]) == [golden.task for golden in checkpoints.goldens()]
    assert [parameter["name"] for parameter in operation["parameters"]] == ["task", "Polytask-Deadline-Ms"]


def test_every_reference_in_the_document_leads_somewhere(document: dict[str, Any]) -> None:
    """The page at /docs can show every schema."""
    names = document["components"]["schemas"].keys()

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    assert {reference.removeprefix("#/components/schemas/") for reference in references(document)} <= names
