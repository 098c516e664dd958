"""What a task's tensors are: their names, types and shapes; from texts to inputs, and from answers to values."""

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

_OPTIONS = ("raw_scores", "truncation")
_TRANSPORT = ("binary_data_output",)
_ENCODER = msgspec.json.Encoder()


class TensorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tensor of a task. -1 in `shape` is as many as there are. `parameters`: what else there is to know."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Output:
    """An output: `of` an answer the value, or the values of a row where it is `wide`."""

    name: str
    datatype: str
    of: Callable[[Task, AnswerJson], Any]
    wide: bool = False


def _field(name: str) -> Callable[[Task, AnswerJson], Any]:
    return lambda _, answer: answer[name]


def _by_label(task: Task, answer: AnswerJson) -> list[float]:
    return [answer["scores"][label] for label in task.labels]


def _by_candidate(_: Task, answer: AnswerJson) -> list[float]:
    return [ranked["score"] for ranked in sorted(answer["ranking"], key=lambda ranked: ranked["index"])]


def _order(_: Task, answer: AnswerJson) -> list[int]:
    return [ranked["index"] for ranked in answer["ranking"]]


def _json(name: str) -> Callable[[Task, AnswerJson], str]:
    return lambda _, answer: _ENCODER.encode(answer[name]).decode()


_LABEL, _SCORE = _Output("label", "BYTES", _field("label")), _Output("score", "FP32", _field("score"))
_SCORES, _TEXT = _Output("scores", "FP32", _by_label, wide=True), _Output("text", "BYTES", _field("text"))

_OUTPUTS: dict[Kind, tuple[_Output, ...]] = {
    Kind.CLASSIFICATION: (_LABEL, _SCORE, _SCORES),
    Kind.MULTILABEL: (_Output("labels", "BYTES", _json("labels")), _SCORES),
    Kind.REGRESSION: (_Output("value", "FP32", _field("value")),),
    Kind.RANKING: (
        _Output("scores", "FP32", _by_candidate, wide=True),
        _Output("ranking", "INT32", _order, wide=True),
    ),
    Kind.MULTIPLE_CHOICE: (
        _Output("choice", "INT32", _field("choice")),
        _TEXT,
        _Output("scores", "FP32", _field("scores"), wide=True),
    ),
    Kind.TAGGING: (_Output("entities", "BYTES", _json("entities")),),
    Kind.SPAN: (_TEXT, _Output("start", "INT32", _field("start")), _Output("end", "INT32", _field("end")), _SCORE),
}
_COUNTED = (_Output("tokens", "INT32", _field("tokens")), _Output("dropped_tokens", "INT32", _field("dropped_tokens")))


def input_tensors(task: Task) -> list[TensorInfo]:
    """The inputs of a task: a tensor for each field of an input, one element or row for each input."""
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
    """The outputs of a task. The parameter `labels` of scores says what stands in which column."""
    return [
        TensorInfo(
            name=output.name,
            datatype=output.datatype,
            shape=[-1, len(task.labels) or -1] if output.wide else [-1],
            parameters={"labels": list(task.labels)} if output.of is _by_label else None,
        )
        for output in _outputs(task)
    ]


def as_inputs(task: Task, request: InferenceRequest, texts: Mapping[str, Texts]) -> bytes:
    """A request as one of this API: its tensors' rows become inputs. Raises InvalidInput."""
    lists = {tensor.name for tensor in input_tensors(task) if len(tensor.shape) == 2}
    columns = {name: _rows(tensor, is_list=name in lists) for name, tensor in texts.items()}
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        rows = ", ".join(f"{name[:80]!r} {size}" for name, size in sizes.items())
        raise InvalidInput([FieldError("inputs", f"must all have a row for each input; there are {rows}")])
    inputs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return _ENCODER.encode({"inputs": inputs, "options": _options(request)})


def as_outputs(task: Task, answers: Sequence[AnswerJson], names: Sequence[str]) -> list[ResponseOutput]:
    """The answers to inputs as the outputs of these names."""
    found = []
    by_name = {output.name: output for output in _outputs(task)}
    for output in (by_name[name] for name in names):
        values, shape = [output.of(task, answer) for answer in answers], [len(answers)]
        if output.wide:
            shape.append(len(values[0]))
            values = [value for row in values for value in row]
        found.append(ResponseOutput(output.name, output.datatype, shape, values))
    return found


def _outputs(task: Task) -> tuple[_Output, ...]:
    return _OUTPUTS[task.kind] + _COUNTED


def _rows(tensor: Texts, *, is_list: bool) -> list[Any]:
    """What a tensor has for each input. [N] and [N, 1] are a text each, of a field that is a list [C] is one input's."""
    width = tensor.shape[-1]
    if not is_list and (len(tensor.shape) == 1 or width == 1):
        return tensor.values
    return [tensor.values[start : start + width] for start in range(0, len(tensor.values), width)]


def _options(request: InferenceRequest) -> dict[str, Any]:
    parameters = request.parameters or {}
    for name in parameters:
        if name not in _OPTIONS + _TRANSPORT:
            known = ", ".join(_OPTIONS + _TRANSPORT)
            message = f"is not understood: parameters are {known}; a deadline goes in the header Polytask-Deadline-Ms"
            raise InvalidInput([FieldError(f"parameters.{name[:80]}", message)])
    return {name: value for name, value in parameters.items() if name in _OPTIONS}
