"""IPC messages: they arrive as they were sent, however the bytes are split."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.model.answers import Logits
from polytask.model.encoding import Encoding
from polytask.service.errors import (
    BodyTooSlow,
    DeadlineExceeded,
    Draining,
    InternalError,
    NotReady,
    QueueFull,
    ServiceError,
    UnknownTask,
)
from polytask.service.processes.ipc import Answered, Cancel, Connection, EncodedRow, Failed, RowLogits, Submit, ToEngine

_numbers = st.integers(0, 2**31)
_rows = st.lists(st.integers(0, 250_000), min_size=1).map(
    lambda ids: EncodedRow.of(1, Encoding(tuple(ids), (0,) * len(ids), dropped_tokens=3))
)
_messages: st.SearchStrategy[ToEngine] = st.one_of(
    st.builds(Cancel, _numbers, st.none() | st.just("deadline")),
    st.builds(Submit, _numbers, st.floats(allow_nan=False), st.lists(_rows).map(tuple)),
)


class _Pipe(asyncio.Transport):
    """Keeps the written bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)


def _end(heard: list[ToEngine]) -> Connection[ToEngine]:
    return Connection(msgspec.msgpack.Decoder(ToEngine), lambda _, message: heard.append(message), lambda _: None)


@given(st.lists(_messages), st.lists(st.integers(1, 40)))
def test_messages_arrive_whole_and_in_order(messages: list[ToEngine], cuts: list[int]) -> None:
    """The same messages arrive in order, wherever the stream is split into pieces."""
    pipe, heard = _Pipe(), list[ToEngine]()
    near, far = _end([]), _end(heard)
    near.connection_made(pipe)
    near.send(messages)
    for size in cuts:
        far.data_received(pipe.written[:size])
        pipe.written = pipe.written[size:]
    far.data_received(pipe.written)
    assert heard == messages


def test_an_encoding_arrives_without_what_stays_behind() -> None:
    """An encoding arrives with its tokens and without the character offsets, which stay in the frontend."""
    encoding = Encoding((2, 7, 3), (0, 0, 1), 4, (1,), ((0, 3),))
    assert EncodedRow.of(1, encoding).encoding() == Encoding((2, 7, 3), (0, 0, 1), 4)


@pytest.mark.parametrize(
    "logits", [np.arange(12, dtype=np.float32).reshape(3, 4)[:, 1:3] / 7, np.array([np.pi], np.float32)]
)
def test_logits_arrive_to_the_bit(logits: Logits) -> None:
    """Logits arrive bit for bit, also slices of larger arrays."""
    sent = msgspec.msgpack.encode(Answered(1, 0.5, 0.75, (RowLogits.of(logits),)))
    (row,) = msgspec.msgpack.decode(sent, type=Answered).rows
    assert row.array().dtype == np.float32
    assert np.array_equal(row.array(), logits)


@pytest.mark.parametrize(
    "error",
    [
        QueueFull("no room: 9 tokens are waiting", retry_after_s=2.5),
        Draining("the service ends"),
        NotReady("no engine is up", retry_after_s=1),
        DeadlineExceeded("too late"),
        BodyTooSlow("too late"),
        UnknownTask("mod", ["mood"]),
    ],
)
def test_an_error_means_the_same_on_the_other_side(error: ServiceError) -> None:
    """An error arrives with its class, status, detail and Retry-After."""
    sent = msgspec.msgpack.encode(Failed.by(1, error))
    rebuilt = msgspec.msgpack.decode(sent, type=Failed).rebuilt()
    assert type(rebuilt) is type(error)
    assert rebuilt.problem() == error.problem()


def test_the_reason_of_an_internal_error_comes_along() -> None:
    """The frontend gets the engine's traceback as the cause; the client gets an id only."""
    try:
        _ = dict[str, int]()["in the engine"]
    except KeyError as error:
        rebuilt = Failed.by(1, InternalError(error)).rebuilt()
    assert isinstance(rebuilt, InternalError)
    assert "test_the_reason_of_an_internal_error" in str(rebuilt.__cause__)
    assert "in the engine" in str(rebuilt.__cause__)
    assert "in the engine" not in rebuilt.detail
