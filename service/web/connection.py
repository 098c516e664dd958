"""HTTP connections: bounds on the size of a request head and on the time that it takes to arrive, and the disconnect event.

uvicorn has neither bound: its parser accepts any number of headers of any size, and a connection whose head never ends
would stay open for ever. So would one whose body never ends and is not read. Whoever reads a body bounds its size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from polytask.service.errors import problem
from polytask.service.request_context import request_id
from polytask.service.web.openapi import PROBLEM
from polytask.service.web.problem_details import render_problem

MAX_HEAD_BYTES = 64 * 1024
"""Size limit of request line and headers."""

DISCONNECT_EVENT = "polytask.disconnect_event"
"""Key of the connection's DisconnectEvent in the ASGI scope."""

HEAD_TIMEOUT_S = 10.0
"""Time for a head to arrive, and for the rest of a body after its response."""


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


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's HTTP protocol with these bounds."""

    head_timeout_s = HEAD_TIMEOUT_S

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = True
        self._in_message = True
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._disconnect_event = DisconnectEvent()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client has connected."""
        super().connection_made(CoalescingTransport(transport, self.loop))  # type: ignore[arg-type]
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        super().connection_lost(exc)
        self._disconnect_event.set()
        self._stop_timer()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope[DISCONNECT_EVENT] = self._disconnect_event  # type: ignore[literal-required]
        self._in_head = self._in_message = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._in_message = False
        super().on_message_complete()
        # uvicorn pauses reading when a large part of a body arrives, until the application asks for the next part.
        # Nobody asks after the last part, and the end of the connection would not be noticed. A pipelined request may
        # wait.
        if not self.pipeline:
            self.flow.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(431, "Head too large", f"request line and headers have at most {MAX_HEAD_BYTES} bytes")
        if not self._is_timed():
            self._stop_timer()
        elif self._timer is None:
            self._start_timer()

    def send_400_response(self, msg: str) -> None:
        """The bytes received are not HTTP."""
        self._refuse(400, "Bad request", msg)

    def _is_timed(self) -> bool:
        """Whether the bytes that arrive now belong to a head, or to a body whose response has been sent."""
        return self._in_head or (self._in_message and self.cycle.response_complete)

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.head_timeout_s, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            # A request is being answered. Reading from this connection may have been paused in the meantime.
            self._start_timer()
        elif self._is_timed():
            self.transport.close()

    def _refuse(self, status: int, title: str, detail: str) -> None:
        """Writes a problem and closes the connection. There is no request yet that the application could answer."""
        encoded_id = request_id(())
        body = render_problem(replace(problem(status, title, detail), request_id=encoded_id.decode()))
        head = b"content-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head % (PROBLEM.encode(), len(body), encoded_id) + body)
        self.transport.close()


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
