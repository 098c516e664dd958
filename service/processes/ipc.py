"""Messages between frontends and engines (IPC): msgpack over a Unix socket.

A connection ends with the process at either end. So each process learns at once that the other has died, and no
message reaches the process that replaces it. Deadlines and times are seconds of `time.monotonic()`, which on Linux
and macOS is one clock for all processes of a machine.
"""

from __future__ import annotations

import asyncio
import struct
import traceback
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import msgspec
import numpy as np

from polytask.model.answers import Logits
from polytask.model.encoding import Encoding
from polytask.service.errors import InternalError, ServiceError

Incoming = TypeVar("Incoming")

_LENGTH = struct.Struct("<I")


class EngineError(Exception):
    """An engine failed to run a request. The message is the engine's traceback."""


class _Message(msgspec.Struct, array_like=True, tag=True, frozen=True):
    pass


class EncodedRow(msgspec.Struct, array_like=True, frozen=True):
    """The part of a row's encoding that the device and the metrics need."""

    task_id: int
    input_ids: tuple[int, ...]
    segment_ids: tuple[int, ...]
    dropped_tokens: int

    @classmethod
    def of(cls, task_id: int, encoding: Encoding) -> EncodedRow:
        """The row of an encoding for a task."""
        return cls(task_id, encoding.input_ids, encoding.segment_ids, encoding.dropped_tokens)

    def encoding(self) -> Encoding:
        """The encoding without character offsets, which stay in the frontend."""
        return Encoding(self.input_ids, self.segment_ids, self.dropped_tokens)


class RowLogits(msgspec.Struct, array_like=True, frozen=True):
    """The logits of a row, as raw float32."""

    shape: tuple[int, ...]
    values: bytes

    @classmethod
    def of(cls, logits: Logits) -> RowLogits:
        """The logits, bit for bit."""
        return cls(logits.shape, np.ascontiguousarray(logits, np.float32).tobytes())

    def array(self) -> Logits:
        """The logits, read-only."""
        return np.frombuffer(self.values, np.float32).reshape(self.shape)


class Submit(_Message, frozen=True):
    """To an engine: the rows of a request. `request`: a number that is new on this connection."""

    request: int
    deadline: float
    rows: tuple[EncodedRow, ...]


class Cancel(_Message, frozen=True):
    """To an engine: drop this request. `reason`: for the metrics."""

    request: int
    reason: str | None


class Answered(_Message, frozen=True):
    """To a frontend: the logits of all rows of a request, and the start and end of the batch that ran the last row."""

    request: int
    started: float
    ended: float
    rows: tuple[RowLogits, ...]


class Failed(_Message, frozen=True):
    """To a frontend: a request was refused or failed. `error`: the class name of the ServiceError."""

    request: int
    error: str
    detail: str
    retry_after_s: int | None

    @classmethod
    def by(cls, request: int, error: ServiceError) -> Failed:
        """The message for `error`. For an internal error the detail is the traceback of its cause."""
        internal = isinstance(error, InternalError) and error.__cause__
        detail = "".join(traceback.format_exception(internal)) if internal else error.detail
        return cls(request, type(error).__name__, detail, error.retry_after_s)

    def rebuilt(self) -> ServiceError:
        """The same error on this side."""
        kind = _kinds(ServiceError).get(self.error)
        if kind is None or issubclass(kind, InternalError):
            return InternalError(EngineError(self.detail), textless=True)
        return kind.restored(self.detail, retry_after_s=self.retry_after_s)


class Status(_Message, frozen=True):
    """To a frontend, at each change and every second: whether the engine answers, and its speed (`FairQueue.speed`)."""

    ready: bool
    speed: float


ToEngine = Submit | Cancel
ToFrontend = Answered | Failed | Status


class Connection(asyncio.Protocol, Generic[Incoming]):
    """One end of a connection.

    `receive`: called with each message. `made` and `lost`: called once, when the connection is made and when it has ended.
    """

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[Incoming],
        receive: Callable[[Connection[Incoming], Incoming], None],
        lost: Callable[[Connection[Incoming]], None],
        made: Callable[[Connection[Incoming]], None] = lambda _: None,
    ) -> None:
        self._decoder = decoder
        self._encoder = msgspec.msgpack.Encoder()
        self._receive = receive
        self._lost = lost
        self._made = made
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def send(self, messages: Iterable[_Message]) -> None:
        """Sends messages in order. They are lost if the connection has ended."""
        if self._transport is not None:
            payloads = map(self._encoder.encode, messages)
            self._transport.write(b"".join(_LENGTH.pack(len(payload)) + payload for payload in payloads))

    def close(self) -> None:
        """Ends the connection after all sent data is written."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._made(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        position = 0
        while len(self._buffer) - position >= _LENGTH.size:
            start = position + _LENGTH.size
            end = start + _LENGTH.unpack_from(self._buffer, position)[0]
            if len(self._buffer) < end:
                break
            self._receive(self, self._decoder.decode(bytes(self._buffer[start:end])))
            position = end
        del self._buffer[:position]

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._lost(self)


def _kinds(error: type[ServiceError]) -> dict[str, type[ServiceError]]:
    return {error.__name__: error} | {
        name: kind for child in error.__subclasses__() for name, kind in _kinds(child).items()
    }
