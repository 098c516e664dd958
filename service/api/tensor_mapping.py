"""Tensor mapping: the tensors of each task, from tensors to inputs, and from answers to tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from polytask.model.tasks import Kind, Task
from polytask.service.api.responses import AnswerJson
from polytask.service.api.schemas import input_fields
from polytask.service.api.tensors import InferenceRequest, ResponseOutput, Texts
from polytask.service.errors import FieldError, InvalidInput

_OPTIONS = ("raw_scores", "truncation", "windows", "min_confidence")
_TRANSPORT_PARAMETERS = ("binary_data_output", "content_type")
_ENCODER = msgspec.json.Encoder()


class TensorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata of a tensor. -1 in `shape`: any size. `parameters`: `optional` of inputs, column `labels` of scores."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Output:
    """An output tensor. `value`: the element for an answer, or the list of elements if the tensor has columns."""

    name: str
    datatype: str
    value: Callable[[Task, AnswerJson], Any]
    has_columns: bool = False


def _field(name: str) -> Callable[[Task, AnswerJson], Any]:
    return lambda _, answer: answer[name]


def _label(_: Task, answer: AnswerJson) -> str:
    """An empty text for none of the labels, as a tensor of texts cannot hold null."""
    return answer["label"] or ""


def _by_label(task: Task, answer: AnswerJson) -> list[float]:
    return [answer["scores"][label] for label in task.labels]


def _by_candidate(_: Task, answer: AnswerJson) -> list[float]:
    return [ranked["score"] for ranked in sorted(answer["ranking"], key=lambda ranked: ranked["index"])]


def _ranking(_: Task, answer: AnswerJson) -> list[int]:
    return [ranked["index"] for ranked in answer["ranking"]]


def _json(name: str) -> Callable[[Task, AnswerJson], str]:
    return lambda _, answer: _ENCODER.encode(answer[name]).decode()


_LABEL, _SCORE = _Output("label", "BYTES", _label), _Output("score", "FP32", _field("score"))
_SCORES, _TEXT = _Output("scores", "FP32", _by_label, has_columns=True), _Output("text", "BYTES", _field("text"))

_OUTPUTS: dict[Kind, tuple[_Output, ...]] = {
    Kind.CLASSIFICATION: (_LABEL, _SCORE, _SCORES),
    Kind.MULTILABEL: (_Output("labels", "BYTES", _json("labels")), _SCORES),
    Kind.REGRESSION: (_Output("value", "FP32", _field("value")),),
    Kind.RANKING: (
        _Output("scores", "FP32", _by_candidate, has_columns=True),
        _Output("ranking", "INT32", _ranking, has_columns=True),
    ),
    Kind.MULTIPLE_CHOICE: (
        _Output("choice", "INT32", _field("choice")),
        _TEXT,
        _Output("scores", "FP32", _field("scores"), has_columns=True),
    ),
    Kind.TAGGING: (_Output("entities", "BYTES", _json("entities")),),
    Kind.SPAN: (_TEXT, _Output("start", "INT32", _field("start")), _Output("end", "INT32", _field("end")), _SCORE),
}
_NO_ANSWER = (_Output("no_answer", "FP32", _field("no_answer")),)
_TOKEN_COUNTS = (
    _Output("tokens", "INT32", _field("tokens")),
    _Output("dropped_tokens", "INT32", _field("dropped_tokens")),
)


def input_tensors(task: Task) -> list[TensorInfo]:
    """The input tensors of a task: one per field of its inputs, with one element or row per input."""
    return [
        TensorInfo(
            name=field.name,
            datatype="BYTES",
            shape=[-1, -1] if field.type == "array of strings" else [-1],
            parameters=None if field.required else {"optional": True},
        )
        for field in input_fields(task)
    ]


def output_tensors(task: Task) -> list[TensorInfo]:
    """The output tensors of a task. The parameter `labels` of scores names their columns."""
    return [
        TensorInfo(
            name=output.name,
            datatype=output.datatype,
            shape=[-1, len(task.labels) or -1] if output.has_columns else [-1],
            parameters={"labels": list(task.labels)} if output.value is _by_label else None,
        )
        for output in _outputs(task)
    ]


def to_request_body(task: Task, request: InferenceRequest, texts: Mapping[str, Texts]) -> bytes:
    """The request as a body of this API, with one input per row of its tensors. Raises InvalidInput."""
    lists = {tensor.name for tensor in input_tensors(task) if len(tensor.shape) == 2}
    columns = {name: _rows(tensor, is_list=name in lists) for name, tensor in texts.items()}
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        rows = ", ".join(f"{name[:80]!r} {size}" for name, size in sizes.items())
        raise InvalidInput([FieldError("inputs", f"must all have a row for each input; there are {rows}")])
    inputs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return _ENCODER.encode({"inputs": inputs, "options": _options(request)})


def to_outputs(task: Task, answers: Sequence[AnswerJson], names: Sequence[str]) -> list[ResponseOutput]:
    """The answers as the output tensors of these names."""
    outputs = []
    by_name = {output.name: output for output in _outputs(task)}
    for output in (by_name[name] for name in names):
        values, shape = [output.value(task, answer) for answer in answers], [len(answers)]
        if output.has_columns:
            shape.append(len(values[0]))
            values = [value for row in values for value in row]
        outputs.append(ResponseOutput(output.name, output.datatype, shape, values))
    return outputs


def _outputs(task: Task) -> tuple[_Output, ...]:
    return _OUTPUTS[task.kind] + (_NO_ANSWER if task.may_lack_answer else ()) + _TOKEN_COUNTS


def _rows(tensor: Texts, *, is_list: bool) -> list[Any]:
    """The value of each input: one text for shapes [N] and [N, 1]; for list fields a row of [N, C], or all of [C]."""
    width = tensor.shape[-1]
    if not is_list and (len(tensor.shape) == 1 or width == 1):
        return tensor.values
    return [tensor.values[start : start + width] for start in range(0, len(tensor.values), width)]


def _options(request: InferenceRequest) -> dict[str, Any]:
    parameters = request.parameters or {}
    for name in parameters:
        if name not in _OPTIONS + _TRANSPORT_PARAMETERS:
            names = ", ".join(_OPTIONS + _TRANSPORT_PARAMETERS)
            message = f"is not understood: parameters are {names}; a deadline goes in the header Polytask-Deadline-Ms"
            raise InvalidInput([FieldError(f"parameters.{name[:80]}", message)])
    # What MLServer's clients send with texts.
    if parameters.get("content_type", "str") != "str":
        raise InvalidInput([FieldError("parameters.content_type", "must be 'str': inputs are texts")])
    return {name: value for name, value in parameters.items() if name in _OPTIONS}
