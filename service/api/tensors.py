"""Tensors of the Open Inference Protocol: in JSON, or as bytes after the JSON."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from polytask.service.api.surrogates import HALF_A_PAIR, surrogate_place
from polytask.service.errors import FieldError, InvalidInput

HEAD_LENGTH = "Inference-Header-Content-Length"
"""Header with the number of bytes of a body that are JSON. The bytes after them are tensors."""

BINARY = "application/octet-stream"

_Decoded = TypeVar("_Decoded")

_SIZE, _BINARY_DATA = "binary_data_size", "binary_data"
_MAX_DIGITS = 9
_FORMATS = {"FP32": "f", "INT32": "i"}
_ENCODER = msgspec.json.Encoder()


class RequestInput(msgspec.Struct, forbid_unknown_fields=True):
    """A tensor of a request. `data`: flat or nested; not there where `binary_data_size` says how many bytes follow."""

    name: str
    datatype: str
    shape: list[int]
    data: list[str | list[str]] | None = None
    parameters: dict[str, str | float | bool | None] | None = None


class RequestOutput(msgspec.Struct, forbid_unknown_fields=True):
    """A tensor that is wanted. `parameters`: `binary_data` asks for it as bytes."""

    name: str
    parameters: dict[str, str | float | bool | None] | None = None


class InferenceRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request of the Open Inference Protocol.

    `parameters`: the options `raw_scores`, `truncation`, `windows` and `min_confidence`, and `binary_data_output` for outputs as bytes.
    Without `outputs` all are given.
    """

    inputs: list[RequestInput]
    id: str | None = None
    parameters: dict[str, str | float | bool | None] | None = None
    outputs: list[RequestOutput] | None = None

    def requested_outputs(self, names: Sequence[str]) -> dict[str, bool]:
        """The requested ones among the outputs `names`, and whether each is sent as bytes. Raises InvalidInput."""
        default = _flag(self.parameters, "binary_data_output", "parameters")
        if self.outputs is None:
            return dict.fromkeys(names, default)
        requested: dict[str, bool] = {}
        for index, output in enumerate(self.outputs):
            where = f"outputs[{index}]"
            if output.name not in names:
                raise _wrong(f"{where}.name", f"there is no output {output.name[:80]!r}; outputs: {', '.join(names)}")
            parameters = output.parameters or {}
            for name in parameters:
                if name != _BINARY_DATA:
                    raise _wrong(
                        f"{where}.parameters.{name[:80]}", f"is not understood: an output may have {_BINARY_DATA}"
                    )
            requested[output.name] = _flag(parameters, _BINARY_DATA, f"{where}.parameters") if parameters else default
        return requested


class ResponseOutput(msgspec.Struct, omit_defaults=True):
    """A tensor of a response. `data`: flat, in row-major order; or there are `parameters` with a `binary_data_size`."""

    name: str
    datatype: str
    shape: list[int]
    data: list[str | float] | None = None
    parameters: dict[str, int] | None = None


class InferenceResponse(msgspec.Struct, omit_defaults=True):
    """A response of the Open Inference Protocol. `id`: that of the request."""

    model_name: str
    model_version: str
    outputs: list[ResponseOutput]
    id: str | None = None


class Texts(msgspec.Struct):
    """An input tensor. `values`: flat, in row-major order."""

    shape: list[int]
    values: list[str]


_REQUEST_DECODER = msgspec.json.Decoder(InferenceRequest)


def decode_json(decoder: msgspec.json.Decoder[_Decoded], body: bytes) -> _Decoded:
    """Decodes a JSON body. Raises InvalidInput, which names the field."""
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        if (place := surrogate_place(body)) is not None:
            raise _wrong(place, HALF_A_PAIR) from None
        message, _, field = str(error).partition(" - at `$")
        raise _wrong(field.strip("`.") or "body", message) from None
    except RecursionError:
        raise _wrong("body", "is nested too deeply") from None


def read_request(body: bytes, head_length: str | None) -> tuple[InferenceRequest, dict[str, Texts]]:
    """The request and its input tensors by name. `head_length`: value of the header HEAD_LENGTH. Raises InvalidInput."""
    length = len(body) if head_length is None else _length(head_length, len(body))
    request, position = decode_json(_REQUEST_DECODER, body[:length]), length
    texts: dict[str, Texts] = {}
    for index, tensor in enumerate(request.inputs):
        where, size = f"inputs[{index}]", (tensor.parameters or {}).get(_SIZE)
        if tensor.name in texts:
            raise _wrong(f"{where}.name", f"{tensor.name[:80]!r} is there twice")
        if tensor.datatype != "BYTES":
            raise _wrong(f"{where}.datatype", f"must be BYTES, as all inputs are texts; got {tensor.datatype[:80]!r}")
        if (size is None) == (tensor.data is None):
            raise _wrong(where, f"has either data or the parameter {_SIZE}")
        if tensor.data is not None:
            values = [text for part in tensor.data for text in ([part] if isinstance(part, str) else part)]
        elif (
            isinstance(size, (bool, str)) or size is None or size != int(size) or not 0 <= size <= len(body) - position
        ):
            raise _wrong(f"{where}.parameters.{_SIZE}", f"must be a number of bytes; {len(body) - position} are left")
        else:
            values = _strings(body[position : position + int(size)], where)
            position += int(size)
        if not 1 <= len(tensor.shape) <= 2 or min(tensor.shape) < 1 or math.prod(tensor.shape) != len(values):
            raise _wrong(
                f"{where}.shape", f"must be one or two sizes for {len(values)} elements; got {tensor.shape[:9]}"
            )
        texts[tensor.name] = Texts(tensor.shape, values)
    if position != len(body):
        raise _wrong("body", f"{len(body) - position} bytes at its end belong to no input")
    return request, texts


def write_response(response: InferenceResponse, binary: Mapping[str, bool]) -> tuple[bytes, int | None]:
    """The body, and the number of its bytes that are JSON if there are others. `binary`: which outputs become bytes.

    Removes the data of these outputs from `response`.
    """
    parts = [b""]
    for output in response.outputs:
        if binary[output.name]:
            assert output.data is not None
            parts.append(_packed(output.datatype, output.data))
            output.data, output.parameters = None, {_SIZE: len(parts[-1])}
    parts[0] = _ENCODER.encode(response)
    return b"".join(parts), len(parts[0]) if len(parts) > 1 else None


def _packed(datatype: str, values: Sequence[str | float]) -> bytes:
    if datatype in _FORMATS:
        return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)
    texts = [str(value).encode() for value in values]
    return b"".join(part for text in texts for part in (len(text).to_bytes(4, "little"), text))


def _strings(data: bytes, where: str) -> list[str]:
    """Decodes texts, each preceded by its length in four bytes."""
    texts: list[str] = []
    end = 0
    while end < len(data):
        start = end + 4
        end = start + int.from_bytes(data[end:start], "little")
        if start > len(data) or end > len(data):
            raise _wrong(where, f"element {len(texts)} is cut off: an element is its length in four bytes and a text")
        try:
            texts.append(data[start:end].decode())
        except UnicodeDecodeError as error:
            raise _wrong(where, f"element {len(texts)} is not UTF-8: {error.reason} at byte {error.start}") from None
    return texts


def _length(header: str, num_bytes: int) -> int:
    if header.isdecimal() and len(header) <= _MAX_DIGITS and int(header) <= num_bytes:
        return int(header)
    raise _wrong(HEAD_LENGTH, f"must be a number of bytes, at most the {num_bytes} of the body; got {header[:20]!r}")


def _flag(parameters: Mapping[str, Any] | None, name: str, where: str) -> bool:
    value = (parameters or {}).get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(f"{where}.{name}", "must be true or false")
    return bool(value)


def _wrong(field: str, message: str) -> InvalidInput:
    return InvalidInput([FieldError(field, message)])
