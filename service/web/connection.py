"""HTTP connections: bounds on all that a client may send besides bodies, and on its time; and the disconnect event.

uvicorn has none of these bounds: its parser takes heads, trailers and chunk extensions of any size, and any number of
pipelined requests; a head that never ends, or an answer that is never read, would keep a connection open for ever.
Whoever reads a body bounds its size.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sized
from dataclasses import replace
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from polytask.service.errors import problem
from polytask.service.observability.logs import RecurringLine
from polytask.service.request_context import request_id
from polytask.service.web.connection_limit import MAX_CONNECTIONS, make_room
from polytask.service.web.openapi import PROBLEM
from polytask.service.web.problem_details import render_problem

MAX_HEAD_BYTES = 64 * 1024
"""Size limit of request line and headers, and of all else that is not body: trailers, what frames chunks, empty lines."""

_MAX_HEADERS = 1000
"""Limit of a head that takes several reads. A header of five bytes is 130 bytes of objects."""

_MAX_UNREAD_BYTES = 1024 * 1024
"""What may follow of a body after its response. With less, a client that sends first and reads later would see a reset."""

_CHUNK_FRAMING_BYTES = 16
"""What a chunk may have besides its data for each time that data arrives: its size and two line breaks."""

_PIECE_BYTES = 8 * 1024
"""What is parsed at a time. At most so many bytes of pipelined requests become objects before they are answered."""

DISCONNECT_EVENT = "polytask.disconnect_event"
"""Key of the connection's DisconnectEvent in the ASGI scope."""

HEAD_TIMEOUT_S = 10.0
"""Time for a head to arrive, and for the rest of a body after its response."""

_UNREAD_TIMEOUT_S = 30.0
"""Time in which a client must take at least something of what waits to be sent to it."""

_not_http = RecurringLine(
    logging.getLogger(__name__),
    logging.INFO,
    "%d connections were closed since the last such line: what came is not HTTP",
)


class DisconnectEvent:
    """The end of a connection. Callbacks on it cost much less than a task for each request that waits for the message."""

    def __init__(self) -> None:
        self._is_set = False
        self._callbacks: dict[object, Callable[[], None]] = {}

    def watch(self, callback: Callable[[], None]) -> Callable[[], object]:
        """Calls `callback` when the connection ends, or at once if it has ended. Returns a function that stops watching."""
        if self._is_set:
            callback()
        self._callbacks[key := object()] = callback
        return lambda: self._callbacks.pop(key, None)

    def set(self) -> None:
        """The connection has ended."""
        self._is_set = True
        for callback in list(self._callbacks.values()):
            callback()


class _Refusal(Exception):
    """What has arrived is not answered by the application. Arguments: status, title and detail of the problem."""


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's HTTP protocol with these bounds. An `Upgrade` is declined: the request is answered as it stands.

    `max_connections`: of the process; see connection_limit.
    """

    head_timeout_s = HEAD_TIMEOUT_S
    unread_timeout_s = _UNREAD_TIMEOUT_S

    def __init__(self, *arguments: Any, max_connections: int = MAX_CONNECTIONS, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._max_connections = max_connections
        self._in_head = True
        self._in_message = True
        self._declines_upgrade = False
        self._num_hosts = 0
        self._has_transfer_coding = False
        # Bytes since the end of the last message that are no body.
        self._framing_bytes = 0
        # What has arrived and is not parsed yet.
        self._unparsed = memoryview(b"")
        self._refusal: bytes | None = None
        # When the state began in which the connection waits for its client.
        self._since = 0.0
        self._unsent = 0
        self._unsent_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._disconnect_event = DisconnectEvent()

    @property
    def waiting_since(self) -> float | None:
        """When the connection began to wait for its client, on the event loop's clock; None while it has a request."""
        return self._since if self.cycle is None or self.cycle.response_complete else None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client has connected."""
        super().connection_made(CoalescingTransport(transport, self.loop))  # type: ignore[arg-type]
        self.flow = _PipelineFlow(self.transport, self.pipeline)
        self._since = self.loop.time()
        self._timer = self.loop.call_later(self._look_every_s, self._on_timer)
        if len(self.connections) > self._max_connections:
            make_room(cast("set[BoundedConnection]", self.connections), self._max_connections)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        super().connection_lost(exc)
        self._disconnect_event.set()
        self._unparsed = memoryview(b"")
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        """Ends the connection at once, whatever has not been sent."""
        self.connections.discard(self)  # not counted until the event loop has closed it
        self.transport.abort()

    def resume_writing(self) -> None:
        """The client has taken most of what waited to be sent."""
        self._unsent = 0
        super().resume_writing()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope[DISCONNECT_EVENT] = self._disconnect_event  # type: ignore[literal-required]
        self._in_head = self._in_message = True
        self._num_hosts = 0
        self._since = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header is complete. Trailers are dropped: they must not be taken for headers, which have been read."""
        if not self._in_head:
            return
        name = name.lower()
        if name == b"host":
            self._num_hosts += 1
        elif name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name == b"transfer-encoding":
            self._has_transfer_coding |= value.strip().lower() != b"chunked"
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise _Refusal(400, "Bad request", "CONNECT is for proxies; /docs has all paths")
            self._declines_upgrade = True
            return
        if self._num_hosts != 1 and (self._num_hosts or self.parser.get_http_version() != "1.0"):
            raise _Refusal(400, "Bad request", f"a request has one Host header, this one has {self._num_hosts}")
        if self._has_transfer_coding:
            raise _Refusal(400, "Bad request", "the only Transfer-Encoding that is understood is chunked")
        super().on_headers_complete()
        self._in_head = False

    def on_body(self, body: bytes) -> None:
        """A part of a body has arrived."""
        if not self.cycle.response_complete:
            self._framing_bytes -= len(body) + _CHUNK_FRAMING_BYTES
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        if self._declines_upgrade:
            return
        self._in_message = False
        self._framing_bytes = 0
        super().on_message_complete()
        # uvicorn pauses reading when a large part of a body arrives, until the application asks for the next part.
        # Nobody asks after the last part, and the end of the connection would not be noticed.
        self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """A request has been answered: the next one that has arrived is started, or parsed."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._since = self.loop.time()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._close_with(self._refusal)
            return
        elif self._in_message and not self._in_head:
            self._framing_bytes -= _MAX_UNREAD_BYTES
        if self._unparsed:
            self._parse()
        self.flow.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived."""
        if self._refusal is not None:
            return
        if len(data) <= _PIECE_BYTES and self._framing_bytes <= MAX_HEAD_BYTES - _PIECE_BYTES and not self._unparsed:
            self._parse_piece(data)
        else:
            self._unparsed = memoryview(self._unparsed.tobytes() + data)
        if self._unparsed:
            self._parse()

    def _parse(self) -> None:
        """Parses what has arrived, up to a request that waits for the one before it."""
        while self._unparsed and not self.pipeline and self._refusal is None and not self.transport.is_closing():
            size = min(_PIECE_BYTES, MAX_HEAD_BYTES - self._framing_bytes)
            piece, self._unparsed = self._unparsed[:size], self._unparsed[size:]
            self._parse_piece(piece)

    def _parse_piece(self, piece: bytes | memoryview) -> None:
        self._framing_bytes += len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            (offset,) = upgrade.args
            self._decline_upgrade(piece[offset:])
        except httptools.HttpParserError as error:
            refusal = error.__context__
            if isinstance(refusal, _Refusal):
                self._refuse(*refusal.args)
            else:
                _not_http.count()
                self._refuse(400, "Bad request", "what came is not an HTTP request")
        else:
            if self._framing_bytes >= MAX_HEAD_BYTES or (self._in_head and _is_long(self.headers)):
                what = f"request line and headers have at most {MAX_HEAD_BYTES} bytes and {_MAX_HEADERS} headers, and so have trailers"
                self._refuse(431, "Head too large", what)

    def _decline_upgrade(self, rest: bytes | memoryview) -> None:
        """Parses the head once more, without its Upgrade: the parser would not read the body of a request that has one."""
        self._declines_upgrade = False
        line = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._framing_bytes = 0
        self._unparsed = memoryview(b"\r\n".join([line, *headers, b"\r\n"]) + rest + self._unparsed.tobytes())

    @property
    def _look_every_s(self) -> float:
        """Soon enough for a head, or an idle time, that begins just after a look."""
        return min(self.head_timeout_s, self.timeout_keep_alive)

    def _on_timer(self) -> None:
        now = self.loop.time()
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        elif now - self._unsent_since >= self.unread_timeout_s:
            self.abort()
            return
        left_s = self._look_every_s
        if self.waiting_since is not None and not self.transport.is_closing():
            left_s = self._since - now + (self.head_timeout_s if self._in_message else self.timeout_keep_alive)
            if left_s <= 0:
                self.transport.close()
        self._timer = self.loop.call_later(min(max(left_s, 0.001), self._look_every_s), self._on_timer)

    def _refuse(self, status: int, title: str, detail: str) -> None:
        """Writes a problem after the answers to the requests before, and closes the connection."""
        self._unparsed = memoryview(b"")
        encoded_id = request_id(())
        body = render_problem(replace(problem(status, title, detail), request_id=encoded_id.decode()))
        head = b"content-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\nconnection: close\r\n\r\n"
        response = STATUS_LINE[status] + head % (PROBLEM.encode(), len(body), encoded_id) + body
        if self._in_message and not self._in_head:
            # In the body of a request that has begun: it ends, for the application as if the client had gone.
            if self.pipeline:
                self.pipeline.popleft()
            else:
                started = self.cycle.response_started
                self.cycle.disconnected = True
                self.cycle.message_event.set()
                self._close_with(b"" if started else response)
                return
        if self.waiting_since is not None:
            self._close_with(response)
        else:
            self._refusal = response
            self.flow.pause_reading()

    def _close_with(self, response: bytes) -> None:
        self.transport.write(response)
        self.transport.close()


def _is_long(headers: Sized | None) -> bool:
    return headers is not None and len(headers) > _MAX_HEADERS


class _PipelineFlow(FlowControl):
    """uvicorn's flow control, which reads no further while a request waits for the one before it."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Reads on, unless a request waits."""
        if not self._pipeline:
            super().resume_reading()


class CoalescingTransport:
    """`transport` that joins a write with the next one, so that head and body of a response are one packet."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pending = b""

    def write(self, data: bytes) -> None:
        """Writes together with the next write, or in the next iteration of the event loop."""
        if self._pending:
            data, self._pending = self._pending + data, b""
            self._transport.write(data)
        elif data:
            self._pending = data
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Closes the connection after the pending data is written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._pending:
            data, self._pending = self._pending, b""
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
