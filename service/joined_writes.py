"""A connection's transport that joins what is written in one step of the event loop: a response, head and body, is one write.

uvicorn writes the two by themselves. Each is a system call, during which other threads take the interpreter, and wakes
the client.
"""

from __future__ import annotations

import asyncio
from typing import Any


class JoinedWrites:
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
