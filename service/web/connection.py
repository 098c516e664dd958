"""A connection and what it may cost before a request is there: the size of a head, and the time that it takes to come.

uvicorn bounds neither: its parser takes any number of headers of any size, and a connection on which a head, or a body
that nobody reads any more, never ends would stay for ever. A body that is read is bounded by who reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from polytask.service.errors import problem
from polytask.service.observability.request_ids import request_id
from polytask.service.web.openapi import PROBLEM
from polytask.service.web.problem_details import render

MAX_HEAD_BYTES = 64 * 1024
"""Of request line and headers. What a head has more than this is not waited for."""


DISCONNECT_EVENT = "polytask.ending"
"""What the scope (ASGI) of a request has the Ending of its connection as."""


HEAD_S = 10.0
"""Seconds for a head to come, and for the rest of a body after its response."""


class DisconnectEvent:
    """The end of a connection, which those who work for its client may watch for. A task that asks for it costs much more."""

    def __init__(self) -> None:
        self._over = False
        self._watching: dict[object, Callable[[], None]] = {}

    def watch(self, gone: Callable[[], None]) -> Callable[[], object]:
        """Calls `gone` at the end, or at once if that has been, until what is returned is called."""
        if self._over:
            gone()
        self._watching[key := object()] = gone
        return lambda: self._watching.pop(key, None)

    def come(self) -> None:
        """The connection has ended."""
        self._over = True
        for gone in list(self._watching.values()):
            gone()


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's connection with these bounds. `head_s` as HEAD_S."""

    head_s = HEAD_S

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = True
        self._in_message = True
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ending = DisconnectEvent()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client has connected."""
        super().connection_made(CoalescingTransport(transport, self.loop))  # type: ignore[arg-type]
        self._timer = self.loop.call_later(self.head_s, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        super().connection_lost(exc)
        self._ending.come()
        self._stop_waiting()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope[DISCONNECT_EVENT] = self._ending  # type: ignore[literal-required]
        self._in_head = self._in_message = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._in_message = False
        super().on_message_complete()
        # uvicorn stops to read at a large part of a body, until somebody asks for the next one: after the last part
        # nobody does, and the end of the connection would not be seen. A request that is sent ahead may wait.
        if not self.pipeline:
            self.flow.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(431, "Head too large", f"request line and headers have at most {MAX_HEAD_BYTES} bytes")
        if not self._nobody_reads():
            self._stop_waiting()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.head_s, self._late)

    def send_400_response(self, msg: str) -> None:
        """What came is not HTTP."""
        self._refuse(400, "Bad request", msg)

    def _nobody_reads(self) -> bool:
        """Whether what comes now is a head, or a body whose response has been sent."""
        return self._in_head or (self._in_message and self.cycle.response_complete)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            # A request is being answered, and meanwhile nothing may have been read from here.
            self._timer = self.loop.call_later(self.head_s, self._late)
        elif self._nobody_reads():
            self.transport.close()

    def _refuse(self, status: int, title: str, detail: str) -> None:
        """Answers by hand, as there is no request that an application could answer, and ends the connection."""
        own = request_id(())
        found = replace(problem(status, title, detail), request_id=own.decode())
        body = render(found)
        head = b"content-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head % (PROBLEM.encode(), len(body), own) + body)
        self.transport.close()


class CoalescingTransport:
    """`transport` with joined writes; in all else it is that one."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes) -> None:
        """Writes when more data follows, or in the loop's next step."""
        if self._held:
            data, self._held = self._held + data, b""
            self._transport.write(data)
        elif data:
            self._held = data
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Ends the connection, when what was written has gone."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
