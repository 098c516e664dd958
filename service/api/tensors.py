"""Tensors as the Open Inference Protocol carries them: in JSON, or as bytes behind the JSON."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from polytask.service.errors import FieldError, InvalidInput

HEAD_LENGTH = "Inference-Header-Content-Length"
"""The header that says how many bytes of a body are JSON; those behind them are tensors."""

BINARY = "application/octet-stream"

_Decoded = TypeVar("_Decoded")

_SIZE, _WANTED = "binary_data_size", "binary_data"
_MOST_DIGITS = 9
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

    `parameters`: the options `raw_scores` and `truncation`, and `binary_data_output` for outputs as bytes. Without `outputs` all are given.
    """

    inputs: list[RequestInput]
    id: str | None = None
    parameters: dict[str, str | float | bool | None] | None = None
    outputs: list[RequestOutput] | None = None

    def wanted(self, known: Sequence[str]) -> dict[str, bool]:
        """The outputs that are to be given, and whether as bytes. Raises InvalidInput."""
        usual = _flag(self.parameters, "binary_data_output", "parameters")
        if self.outputs is None:
            return dict.fromkeys(known, usual)
        found: dict[str, bool] = {}
        for place, output in enumerate(self.outputs):
            where = f"outputs[{place}]"
            if output.name not in known:
                raise _wrong(f"{where}.name", f"there is no output {output.name[:80]!r}; outputs: {', '.join(known)}")
            parameters = output.parameters or {}
            for name in parameters:
                if name != _WANTED:
                    raise _wrong(f"{where}.parameters.{name[:80]}", f"is not understood: an output may have {_WANTED}")
            found[output.name] = _flag(parameters, _WANTED, f"{where}.parameters") if parameters else usual
        return found


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
    """A tensor of texts, flat."""

    shape: list[int]
    values: list[str]


_REQUEST = msgspec.json.Decoder(InferenceRequest)


def decoded(decoder: msgspec.json.Decoder[_Decoded], body: bytes) -> _Decoded:
    """A JSON body. Raises InvalidInput, naming the field."""
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        message, _, field = str(error).partition(" - at `$")
        raise _wrong(field.strip("`.") or "body", message) from None
    except RecursionError:
        raise _wrong("body", "is nested too deeply") from None


def read(body: bytes, head_length: str | None) -> tuple[InferenceRequest, dict[str, Texts]]:
    """A request and its tensors by name. `head_length`: what the header of that name says. Raises InvalidInput."""
    length = len(body) if head_length is None else _length(head_length, len(body))
    request, at = decoded(_REQUEST, body[:length]), length
    texts: dict[str, Texts] = {}
    for place, tensor in enumerate(request.inputs):
        where, size = f"inputs[{place}]", (tensor.parameters or {}).get(_SIZE)
        if tensor.name in texts:
            raise _wrong(f"{where}.name", f"{tensor.name[:80]!r} is there twice")
        if tensor.datatype != "BYTES":
            raise _wrong(f"{where}.datatype", f"must be BYTES, as all inputs are texts; got {tensor.datatype[:80]!r}")
        if (size is None) == (tensor.data is None):
            raise _wrong(where, f"has either data or the parameter {_SIZE}")
        if tensor.data is not None:
            values = [text for part in tensor.data for text in ([part] if isinstance(part, str) else part)]
        elif isinstance(size, (bool, str)) or size is None or size != int(size) or not 0 <= size <= len(body) - at:
            raise _wrong(f"{where}.parameters.{_SIZE}", f"must be a number of bytes; {len(body) - at} are left")
        else:
            values = _strings(body[at : at + int(size)], where)
            at += int(size)
        if not 1 <= len(tensor.shape) <= 2 or min(tensor.shape) < 1 or math.prod(tensor.shape) != len(values):
            raise _wrong(
                f"{where}.shape", f"must be one or two sizes for {len(values)} elements; got {tensor.shape[:9]}"
            )
        texts[tensor.name] = Texts(tensor.shape, values)
    if at != len(body):
        raise _wrong("body", f"{len(body) - at} bytes at its end belong to no input")
    return request, texts


def write(response: InferenceResponse, binary: Mapping[str, bool]) -> tuple[bytes, int | None]:
    """The body, and how many bytes of it are JSON where there are others. `binary`: which outputs become bytes.

    Takes their data out of the response.
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
    """Texts that each have their length in four bytes in front of them."""
    found: list[str] = []
    at = 0
    while at < len(data):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "little")
        if start > len(data) or at > len(data):
            raise _wrong(where, f"element {len(found)} is cut off: an element is its length in four bytes and a text")
        try:
            found.append(data[start:at].decode())
        except UnicodeDecodeError as error:
            raise _wrong(where, f"element {len(found)} is not UTF-8: {error.reason} at byte {error.start}") from None
    return found


def _length(header: str, most: int) -> int:
    if header.isdecimal() and len(header) <= _MOST_DIGITS and int(header) <= most:
        return int(header)
    raise _wrong(HEAD_LENGTH, f"must be a number of bytes, at most the {most} of the body; got {header[:20]!r}")


def _flag(parameters: Mapping[str, Any] | None, name: str, where: str) -> bool:
    value = (parameters or {}).get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(f"{where}.{name}", "must be true or false")
    return bool(value)


def _wrong(field: str, message: str) -> InvalidInput:
    return InvalidInput([FieldError(field, message)])
