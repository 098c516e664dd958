"""Routes of other inference protocols: the Open Inference Protocol (v2) and KServe's v1. Each task is a model there.

A request is translated into one of this API and runs like any other: limits, queueing and metrics are the same. Only the
shapes of requests, responses and errors differ (errors: see `problem_details`).
"""

from __future__ import annotations

from importlib.metadata import version as release
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from polytask.model.tasks import Task
from polytask.service.api.responses import AnswerJson
from polytask.service.api.tensor_mapping import input_tensors, output_tensors, to_outputs, to_request_body
from polytask.service.api.tensors import (
    BINARY,
    HEAD_LENGTH,
    InferenceRequest,
    InferenceResponse,
    decode_json,
    read_request,
    write_response,
)
from polytask.service.errors import UnknownTask, UnknownVersion
from polytask.service.prediction.engine_client import require_live, require_ready
from polytask.service.versions.served import ServedVersion, Versions
from polytask.service.web.routes.predict_call import PARAMETERS, run_prediction
from polytask.service.web.server import require_accepting

_FAILURES: dict[int | str, dict[str, Any]] = {status: {} for status in (200, 400, 404, 413, 415, 422, 429, 503, 504)}
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {}}
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {}}


class _Instances(msgspec.Struct, forbid_unknown_fields=True):
    """Request of KServe's v1 protocol. `instances`: called `inputs` in this API."""

    instances: msgspec.Raw


class _Answers(msgspec.Struct):
    """The answers in a response of this API, not decoded."""

    answers: msgspec.Raw


_INSTANCES_DECODER, _RESPONSE_DECODER = msgspec.json.Decoder(_Instances), msgspec.json.Decoder(_Answers)
_ANSWERS_DECODER = msgspec.json.Decoder(list[AnswerJson])


class OpenInference:
    """Request handlers. The models of the protocol are the tasks of the active version, and their version is its version.

    The docstrings of the handlers are shown in /openapi.json.
    """

    def __init__(self, versions: Versions, max_body_bytes: int) -> None:
        self._versions = versions
        self._max_body_bytes = max_body_bytes

    async def server(self) -> dict[str, Any]:
        """What serves them, and what it can do beyond the protocol."""
        return {"name": "polytask", "version": release("polytask"), "extensions": ["binary_tensor_data"]}

    async def live(self) -> dict[str, bool]:
        """Raises NotReady where only a restart helps."""
        require_live(self._versions.active.engine)
        return {"live": True}

    async def ready(self, request: Request) -> dict[str, bool]:
        """Raises NotReady or Draining where requests are not answered, or soon will not be."""
        require_accepting(request)
        require_ready(self._versions.active.engine)
        return {"ready": True}

    async def model_ready(self, request: Request) -> dict[str, Any]:
        """The same for one of them. Raises UnknownTask or UnknownVersion."""
        served = self._versions.active
        task = _task(served, request)
        require_accepting(request)
        require_ready(served.engine)
        return {"name": task.name, "ready": True}

    async def metadata(self, request: Request) -> dict[str, Any]:
        """The tensors of a task. Raises UnknownTask or UnknownVersion."""
        served = self._versions.active
        task = _task(served, request)
        inputs, outputs = msgspec.to_builtins((input_tensors(task), output_tensors(task)))
        described = {"versions": [_version(served)], "platform": "polytask", "inputs": inputs, "outputs": outputs}
        return {"name": task.name} | described

    async def infer(self, request: Request) -> Response:
        """Tensors to tensors. Raises ServiceError."""
        served = self._versions.active
        translated: tuple[Task, InferenceRequest, dict[str, bool]] | None = None
        head_length: int | None = None

        def to_body(body: bytes) -> bytes:
            nonlocal translated
            task = _task(served, request)
            inference, texts = read_request(body, request.headers.get(HEAD_LENGTH))
            outputs = inference.requested_outputs([output.name for output in output_tensors(task)])
            translated = task, inference, outputs
            return to_request_body(task, inference, texts)

        def to_tensors(response: bytes) -> bytes:
            nonlocal head_length
            assert translated is not None
            task, inference, requested = translated
            answers = _ANSWERS_DECODER.decode(_RESPONSE_DECODER.decode(response).answers)
            outputs = to_outputs(task, answers, list(requested))
            written = InferenceResponse(task.name, _version(served), outputs, inference.id)
            body, head_length = write_response(written, requested)
            return body

        body, headers = await run_prediction(served, request, self._max_body_bytes, to_body, to_tensors)
        if head_length is None:
            return Response(body, media_type="application/json", headers=headers)
        return Response(body, media_type=BINARY, headers=headers | {HEAD_LENGTH: str(head_length)})

    async def predict(self, request: Request) -> Response:
        """Instances to predictions. Raises ServiceError."""
        response, headers = await run_prediction(
            self._versions.active, request, self._max_body_bytes, _instances_to_inputs
        )
        body = b'{"predictions":%b}' % _RESPONSE_DECODER.decode(response).answers
        return Response(body, media_type="application/json", headers=headers)


def _instances_to_inputs(body: bytes) -> bytes:
    return b'{"inputs":%b}' % decode_json(_INSTANCES_DECODER, body).instances


def _version(served: ServedVersion) -> str:
    return str(served.manifest.version)


def _task(served: ServedVersion, request: Request) -> Task:
    """The task in the path. Raises UnknownTask or UnknownVersion."""
    name, version = request.path_params["task"], _version(served)
    if name not in served.tasks:
        raise UnknownTask(name, list(served.tasks))
    if request.path_params.get("version", version) != version:
        raise UnknownVersion(name, request.path_params["version"], version)
    return served.tasks[name]


def open_inference_routes(handlers: OpenInference) -> APIRouter:
    """The routes of both protocols."""
    router = APIRouter(tags=["inference protocols"])
    router.get("/v2", summary="The server")(handlers.server)
    # A supervisor that sends HEAD needs only the status.
    router.head("/v2/health/live", include_in_schema=False)(handlers.live)
    router.head("/v2/health/ready", include_in_schema=False)(handlers.ready)
    router.get("/v2/health/live", summary="Whether the process answers at all", responses=_NOT_READY)(handlers.live)
    router.get("/v2/health/ready", summary="Whether requests are answered", responses=_NOT_READY)(handlers.ready)
    task_parameter, prediction_parameters = {"parameters": PARAMETERS[:1]}, {"parameters": PARAMETERS}
    for path in ("/v2/models/{task}", "/v2/models/{task}/versions/{version}"):
        # The document shows only the paths without a version.
        documented = "{version}" not in path
        router.get(
            path,
            summary="The tensors of a task",
            responses=_UNKNOWN,
            include_in_schema=documented,
            openapi_extra=task_parameter,
        )(handlers.metadata)
        router.head(f"{path}/ready", include_in_schema=False)(handlers.model_ready)
        router.get(
            f"{path}/ready",
            summary="Whether requests for a task are answered",
            responses=_UNKNOWN | _NOT_READY,
            include_in_schema=documented,
            openapi_extra=task_parameter,
        )(handlers.model_ready)
        router.post(
            f"{path}/infer",
            summary="Tensors to tensors",
            responses=_FAILURES,
            include_in_schema=documented,
            openapi_extra=prediction_parameters,
        )(handlers.infer)
    router.head("/v1/models/{task}", include_in_schema=False)(handlers.model_ready)
    router.get(
        "/v1/models/{task}",
        summary="Whether requests for a task are answered (KServe v1)",
        responses=_UNKNOWN | _NOT_READY,
        openapi_extra=task_parameter,
    )(handlers.model_ready)
    router.post(
        "/v1/models/{task}:predict", summary="KServe v1", responses=_FAILURES, openapi_extra=prediction_parameters
    )(handlers.predict)
    return router
