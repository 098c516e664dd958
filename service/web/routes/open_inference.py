"""The paths of other inference protocols: the Open Inference Protocol (v2), and KServe's v1. Each task is a model there.

A request is translated into one of this API and goes the way of all: what it may hold, who waits for whom, what is
counted is the same. What is particular are the shapes of requests and responses, and of errors (see `problems`).
"""

from __future__ import annotations

from importlib.metadata import version as release
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from polytask.model.tasks import Task
from polytask.service.api.responses import AnswerJson
from polytask.service.api.tensor_mapping import as_inputs, as_outputs, input_tensors, output_tensors
from polytask.service.api.tensors import BINARY, HEAD_LENGTH, InferenceRequest, InferenceResponse, decoded, read, write
from polytask.service.errors import UnknownTask, UnknownVersion
from polytask.service.prediction.engine_client import require_ready
from polytask.service.versions.served import ServedVersion, Versions
from polytask.service.web.routes.predict_call import PARAMETERS, headers, run_prediction
from polytask.service.web.server import require_accepting

_FAILURES: dict[int | str, dict[str, Any]] = {status: {} for status in (200, 404, 413, 422, 429, 503, 504)}
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {}}
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {}}


class _Instances(msgspec.Struct, forbid_unknown_fields=True):
    """A request of KServe's v1 protocol. `instances`: what `inputs` are elsewhere."""

    instances: msgspec.Raw


class _Answered(msgspec.Struct):
    answers: msgspec.Raw


_INSTANCES, _ANSWERED = msgspec.json.Decoder(_Instances), msgspec.json.Decoder(_Answered)
_ANSWERS, _ENCODER = msgspec.json.Decoder(list[AnswerJson]), msgspec.json.Encoder()


class Models:
    """The tasks of the active version as models, which have its version."""

    def __init__(self, versions: Versions, max_body_bytes: int) -> None:
        self._versions = versions
        self._max_body_bytes = max_body_bytes

    async def server(self) -> dict[str, Any]:
        """What serves them, and what it can do beyond the protocol."""
        return {"name": "polytask", "version": release("polytask"), "extensions": ["binary_tensor_data"]}

    async def live(self) -> dict[str, bool]:
        """Whether the process answers at all."""
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
        inference: tuple[Task, InferenceRequest, dict[str, bool]] | None = None

        def translate(body: bytes) -> bytes:
            nonlocal inference
            task = _task(served, request)
            asked, texts = read(body, request.headers.get(HEAD_LENGTH))
            inference = task, asked, asked.wanted([output.name for output in output_tensors(task)])
            return as_inputs(task, asked, texts)

        prediction = await run_prediction(served, request, self._max_body_bytes, translate)
        assert inference is not None
        task, asked, wanted = inference
        outputs = as_outputs(task, _ANSWERS.decode(_ANSWERED.decode(prediction.body).answers), list(wanted))
        body, head_length = write(InferenceResponse(task.name, _version(served), outputs, asked.id), wanted)
        sent = headers(prediction, served)
        if head_length is None:
            return Response(body, media_type="application/json", headers=sent)
        return Response(body, media_type=BINARY, headers=sent | {HEAD_LENGTH: str(head_length)})

    async def predict(self, request: Request) -> Response:
        """Instances to predictions. Raises ServiceError."""
        served = self._versions.active
        prediction = await run_prediction(served, request, self._max_body_bytes, _inputs)
        body = b'{"predictions":%b}' % _ANSWERED.decode(prediction.body).answers
        return Response(body, media_type="application/json", headers=headers(prediction, served))


def _inputs(body: bytes) -> bytes:
    return b'{"inputs":%b}' % decoded(_INSTANCES, body).instances


def _version(served: ServedVersion) -> str:
    return str(served.manifest.version)


def _task(served: ServedVersion, request: Request) -> Task:
    """The task in the path. Raises UnknownTask or UnknownVersion."""
    tasks, name, version = served.predictor.preparer.tasks, request.path_params["task"], _version(served)
    if name not in tasks:
        raise UnknownTask(name, list(tasks))
    if request.path_params.get("version", version) != version:
        raise UnknownVersion(name, request.path_params["version"], version)
    return tasks[name]


def inference_routes(models: Models) -> APIRouter:
    """The paths of both protocols."""
    router = APIRouter(tags=["inference protocols"])
    router.get("/v2", summary="The server")(models.server)
    router.get("/v2/health/live", summary="Whether the process answers at all")(models.live)
    router.get("/v2/health/ready", summary="Whether requests are answered", responses=_NOT_READY)(models.ready)
    own, predicting = {"parameters": PARAMETERS[:1]}, {"parameters": PARAMETERS}
    for path in ("/v2/models/{task}", "/v2/models/{task}/versions/{version}"):
        # The document shows the paths without a version only.
        show = "{version}" not in path
        router.get(
            path, summary="The tensors of a task", responses=_UNKNOWN, include_in_schema=show, openapi_extra=own
        )(models.metadata)
        router.get(
            f"{path}/ready",
            summary="Whether requests for a task are answered",
            responses=_UNKNOWN | _NOT_READY,
            include_in_schema=show,
            openapi_extra=own,
        )(models.model_ready)
        router.post(
            f"{path}/infer",
            summary="Tensors to tensors",
            responses=_FAILURES,
            include_in_schema=show,
            openapi_extra=predicting,
        )(models.infer)
    router.post("/v1/models/{task}:predict", summary="KServe v1", responses=_FAILURES, openapi_extra=predicting)(
        models.predict
    )
    return router
