"""The HTTP contract. A changed line here breaks clients, so it needs a reason and a changelog entry."""

from __future__ import annotations

from typing import Any

import pytest

from polytask.service.config.settings import Settings
from polytask.service.single_process import assemble
from tests.service.support import checkpoints
from tests.service.support.doubles import real_backend
from tests.service.web.middleware.test_authentication import KEYS

_PREDICT = dict.fromkeys(("400", "404", "413", "415", "422", "429", "500", "503", "504"), "Problem")
_REFUSED = dict.fromkeys(("400", "404", "413", "415", "429", "500", "503", "504"), "ErrorMessage")

PATHS = {
    "GET /v1/tasks": {"200": "TaskList", "500": "Problem"},
    "GET /v1/tasks/{task}": {"200": "TaskInfo", "404": "Problem", "500": "Problem"},
    "POST /v1/tasks/{task}/predict": {"200": "PredictResponse"} | _PREDICT,
    "POST /v1/predict": {"200": "TasksResponse"} | _PREDICT,
    "GET /v1/models": {"200": "ModelList", "500": "Problem"},
    "GET /v1/models/{name}/{version}/card": {"200": "string", "404": "Problem", "500": "Problem"},
    "GET /v2": {"200": "{any}", "500": "ErrorMessage"},
    "GET /v2/health/live": {"200": "{boolean}", "500": "ErrorMessage", "503": "ErrorMessage"},
    "GET /v2/health/ready": {"200": "{boolean}", "500": "ErrorMessage", "503": "ErrorMessage"},
    "GET /v2/models/{task}": {"200": "{any}", "404": "ErrorMessage", "500": "ErrorMessage"},
    "GET /v2/models/{task}/ready": {"200": "{any}"} | dict.fromkeys(("404", "500", "503"), "ErrorMessage"),
    "POST /v2/models/{task}/infer": {"200": "InferenceResponse"} | _REFUSED,
    "GET /v1/models/{task}": {"200": "{any}"} | dict.fromkeys(("404", "500", "503"), "ErrorMessage"),
    "POST /v1/models/{task}:predict": {"200": "PredictionsResponse"} | _REFUSED,
    "GET /livez": {"200": "{string}", "500": "Problem", "503": "Problem"},
    "GET /readyz": {"200": "{string}", "500": "Problem", "503": "Problem"},
    "GET /metrics": {"200": "string", "500": "Problem"},
}

PROBLEMS = {
    "bad-request": 400,
    "broken-encoding": 400,
    "unauthorized": 401,
    "not-allowed": 403,
    "not-found": 404,
    "unknown-model": 404,
    "unknown-task": 404,
    "method-not-allowed": 405,
    "conflict": 409,
    "body-too-large": 413,
    "too-long-to-run": 413,
    "too-many-inputs": 413,
    "unsupported-encoding": 415,
    "invalid-input": 422,
    "queue-full": 429,
    "rate-limited": 429,
    "task-quota-full": 429,
    "too-many-at-once": 429,
    "head-too-large": 431,
    "internal-error": 500,
    "several-processes": 501,
    "not-ready": 503,
    "shutting-down": 503,
    "deadline-exceeded": 504,
}

_ASKED = {"options?": "Options | null", "errors?": "OnError"}

REQUESTS = {
    "TextRequest": {"inputs": "[string | TextInput]"} | _ASKED,
    "PairRequest": {"inputs": "[PairInput]"} | _ASKED,
    "RankingRequest": {"inputs": "[RankingInput]"} | _ASKED,
    "ChoiceRequest": {"inputs": "[ChoiceInput]"} | _ASKED,
    "TaggingRequest": {"inputs": "[string | TextInput | TokensInput]"} | _ASKED,
    "SpanRequest": {"inputs": "[SpanInput]"} | _ASKED,
    "TasksRequest": {
        "tasks": "[string]",
        "inputs": "[string | TextInput | PairInput | RankingInput | ChoiceInput | TokensInput | SpanInput]",
    }
    | _ASKED,
    "Options": {
        "top_k?": "integer | null",
        "raw_scores?": "boolean | null",
        "truncation?": "Truncation | null",
        "thresholds?": "{number} | null",
        "min_confidence?": "number | null",
        "windows?": "WindowScore | null",
        "return_tokens?": "boolean | null",
    },
    "InstancesRequest": {
        "instances": "[string | TextInput | PairInput | RankingInput | ChoiceInput | TokensInput | SpanInput]"
    },
    "InferenceRequest": {
        "inputs": "[RequestInput]",
        "id?": "string | null",
        "parameters?": "{string | number | boolean | null} | null",
        "outputs?": "[RequestOutput] | null",
    },
    "RequestInput": {
        "name": "string",
        "datatype": "string",
        "shape": "[integer]",
        "data?": "[string | [string]] | null",
        "parameters?": "{string | number | boolean | null} | null",
    },
    "RequestOutput": {"name": "string", "parameters?": "{string | number | boolean | null} | null"},
    "TextInput": {"text": "string"},
    "PairInput": {"text": "string", "text_pair": "string"},
    "RankingInput": {"query": "string", "candidates": "[string]"},
    "ChoiceInput": {"text": "string", "question?": "string | null", "choices": "[string]"},
    "TokensInput": {"tokens": "[string]"},
    "SpanInput": {"question": "string", "context": "string"},
}

_READ = {"tokens": "integer", "dropped_tokens": "integer", "read?": "[[ReadToken]]"}
_ENTITY = {"text": "string", "label": "string", "start": "integer", "end": "integer", "score": "number"}
_ANSWERS = (
    "[ClassificationAnswer | MultilabelAnswer | RegressionAnswer | RankingAnswer | MultipleChoiceAnswer"
    " | TaggingAnswer | SpanAnswer | OptionalSpanAnswer | RefusedInput]"
)

RESPONSES = {
    "PredictResponse": {"task": "string", "model": "string", "answers": _ANSWERS, "usage": "Usage"},
    "TasksResponse": {"model": "string", "results": "{TaskAnswers}", "usage": "Usage"},
    "TaskAnswers": {"answers": _ANSWERS},
    "Usage": {"inputs": "integer", "rows": "integer", "tokens": "integer"},
    "RefusedInput": {"error": "Problem"},
    "ReadToken": {"token": "string", "field": "string", "start": "integer", "end": "integer"},
    "ClassificationAnswer": {"label": "string | null", "score": "number", "scores": "{number}"} | _READ,
    "MultilabelAnswer": {"labels": "[LabelScore]", "scores": "{number}"} | _READ,
    "LabelScore": {"label": "string", "score": "number"},
    "RegressionAnswer": {"value": "number"} | _READ,
    "RankingAnswer": {"ranking": "[RankedCandidate]"} | _READ,
    "RankedCandidate": {"index": "integer", "text": "string", "score": "number"},
    "MultipleChoiceAnswer": {"choice": "integer", "text": "string", "scores": "[number]"} | _READ,
    "TaggingAnswer": {"entities": "[Entity | WordEntity]"} | _READ,
    "Entity": _ENTITY,
    "WordEntity": _ENTITY | {"start_word": "integer", "end_word": "integer"},
    "SpanAnswer": {"text": "string", "start": "integer", "end": "integer", "score": "number"} | _READ,
    "OptionalSpanAnswer": {
        "text": "string",
        "start": "integer",
        "end": "integer",
        "score": "number",
        "no_answer": "number",
    }
    | _READ,
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
    "ModelList": {"active": "string", "loading": "string | null", "models": "[ModelInfo]"},
    "ModelInfo": {
        "model": "string",
        "name": "string",
        "version": "integer",
        "state": "string",
        "since": "string",
        "backend": "string | null",
        "precision": "string | null",
        "device": "string | null",
        "tasks": "[string]",
        "metrics": "{{number}}",
        "baselines": "{{number}}",
        "references": "{{{number}}}",
        "provenance": "{any}",
        "card": "string",
    },
    "PredictionsResponse": {"predictions": _ANSWERS},
    "InferenceResponse": {
        "model_name": "string",
        "model_version": "string",
        "outputs": "[ResponseOutput]",
        "id?": "string | null",
    },
    "ResponseOutput": {
        "name": "string",
        "datatype": "string",
        "shape": "[integer]",
        "data?": "[string | number] | null",
        "parameters?": "{integer} | null",
    },
    "ErrorMessage": {"error": "string"},
    "TaskList": {"model": "string", "tasks": "[TaskInfo]"},
    "TaskInfo": {
        "name": "string",
        "kind": "Kind",
        "labels": "[string]",
        "thresholds": "{number} | null",
        "min_confidence": "number | null",
        "value_range": "[number, number] | null",
        "input_fields": "[InputField]",
        "input_may_be_a_string": "boolean",
        "limits": "Limits",
        "example": "{any}",
        "metrics": "{number}",
        "baselines": "{number}",
        "references": "{{number}}",
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


ADMIN = {
    "LoadRequest": {"model": "string", "tolerances?": "{number}"},
    "SwapState": {"active": "string", "standby": "string | null", "load": "Load | null"},
    "Load": {
        "model": "string",
        "state": "LoadState",
        "detail?": "string | null",
        "shifts?": "{Shift}",
        "new_tasks?": "[string]",
        "gone_tasks?": "[string]",
    },
    "Shift": {"moved": "number", "tolerance": "number", "refused": "boolean"},
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The OpenAPI document of a service."""
    _, app = assemble(checkpoints.in_memory(), Settings(), real_backend())
    return app.openapi()


def written(schema: dict[str, Any]) -> str:
    """A schema on one line. An optional field of an object has a question mark."""
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


def test_the_types_of_problems_are_a_closed_list(document: dict[str, Any]) -> None:
    """The document lists all types of problems; each path shows those that it returns, some of them only if keys are needed."""
    types = document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert types == [f"urn:polytask:{name}" for name in PROBLEMS]
    elsewhere = {"not-found", "method-not-allowed", "head-too-large"}
    of_admins = {"not-allowed", "conflict", "several-processes"}
    of_keys = {"unauthorized", "rate-limited", "too-many-at-once"} | of_admins
    assert examples_of_problems(document) == {name: PROBLEMS[name] for name in PROBLEMS.keys() - elsewhere - of_keys}
    _, keyed = assemble(checkpoints.in_memory(), Settings(api_keys=KEYS), real_backend())
    assert examples_of_problems(keyed.openapi()) == {name: PROBLEMS[name] for name in PROBLEMS.keys() - elsewhere}
    admin = {path for path in keyed.openapi()["paths"] if path.startswith("/admin")}
    assert admin == {f"/admin/models{verb}" for verb in ("", "/load", "/activate", "/rollback", "/unload")}
    assert keyed.openapi()["paths"]["/livez"] == document["paths"]["/livez"], "what is open to all needs no key"


def examples_of_problems(document: dict[str, Any]) -> dict[str, int]:
    """The problems among the examples of all responses, each with its own status."""
    found: dict[str, int] = {}
    for methods in document["paths"].values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if "application/problem+json" in response["content"]:
                    examples = response["content"]["application/problem+json"]["examples"]
                    assert examples
                    assert {example["value"]["status"] for example in examples.values()} == {int(status)}
                    found |= {name.removeprefix("urn:polytask:"): int(status) for name in examples}
    return found


def test_the_paths_and_their_responses(document: dict[str, Any]) -> None:
    """The document has these paths with these statuses; every status that is no answer has a problem, or an error of its protocol."""
    found: dict[str, dict[str, str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            responses = found.setdefault(f"{method.upper()} {path}", {})
            for status, response in operation["responses"].items():
                # The outputs of /v2 may come as bytes, too.
                media_types = list(response["content"])
                assert media_types[1:] in ([], ["application/octet-stream"])
                responses[status] = written(response["content"][media_types[0]]["schema"])
                assert (media_types == ["application/problem+json"]) == (responses[status] == "Problem")
    for path, responses in found.items():
        for status, model in responses.items():
            of_other_protocol = " /v2" in path or " /v1/models/{task}" in path
            assert (model == ("ErrorMessage" if of_other_protocol else "Problem")) == (status >= "400")
    assert found == PATHS


@pytest.fixture(scope="module")
def keyed_document() -> dict[str, Any]:
    """The OpenAPI document of a service with API keys."""
    _, app = assemble(checkpoints.in_memory(), Settings(api_keys=KEYS), real_backend())
    return app.openapi()


def test_the_fields_of_all_schemas(document: dict[str, Any], keyed_document: dict[str, Any]) -> None:
    """Requests and responses have exactly these fields, requests refuse others, and keys add those of /admin."""
    assert fields_by_schema(document) == REQUESTS | RESPONSES
    assert fields_by_schema(keyed_document) == REQUESTS | RESPONSES | ADMIN


def fields_by_schema(document: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The fields of each object schema. Exactly the schemas of requests forbid other fields."""
    found = {}
    for name, schema in document["components"]["schemas"].items():
        if "properties" in schema:
            required = schema.get("required", [])
            found[name] = {
                field if field in required else f"{field}?": written(value)
                for field, value in schema["properties"].items()
            }
            assert (schema.get("additionalProperties") is False) == (name in REQUESTS or name == "LoadRequest")
    return found


def test_the_request_body_and_header_of_predict(document: dict[str, Any]) -> None:
    """The body is one of the request schemas, with an example for each task, and the deadline is a header."""
    operation = document["paths"]["/v1/tasks/{task}/predict"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    assert written(content["schema"]) == " | ".join(name for name in list(REQUESTS)[:6])
    assert written(
        document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    ) == ("TasksRequest")
    assert list(content["examples"]) == [golden.task for golden in checkpoints.goldens()]
    assert [parameter["name"] for parameter in operation["parameters"]] == ["task", "Polytask-Deadline-Ms"]


def test_every_reference_in_the_document_resolves(document: dict[str, Any]) -> None:
    """Every `$ref` names a schema of the document, so /docs can show it."""
    names = document["components"]["schemas"].keys()

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            reference = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return reference.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    assert {reference.removeprefix("#/components/schemas/") for reference in references(document)} <= names
