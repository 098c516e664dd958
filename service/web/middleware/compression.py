"""Compression: large responses are sent with gzip to clients that ask for it."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MIN_BYTES = 16 * 1024
"""Smaller responses stay as they are: to compress one takes longer than a fast network needs for what it would save."""

_THREAD_BYTES = 128 * 1024
"""Larger ones are compressed on a thread. This many take about a millisecond."""

_LEVEL = 1
"""The fastest. Higher ones save a tenth more of an answer and take several times as long."""


class CompressionMiddleware:
    """ASGI middleware. Looks at a request only when its response is large."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        held: Message | None = None

        async def send_compressed(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start":
                if scope["method"] != "HEAD" and _length(message["headers"]) >= MIN_BYTES:
                    message["headers"].append((b"vary", b"Accept-Encoding"))
                    if accepts_gzip(scope["headers"]):
                        held = message
                        return
            elif held is not None:
                body = message["body"]
                run = asyncio.to_thread(_gzip, body) if len(body) > _THREAD_BYTES else None
                message["body"] = body = _gzip(body) if run is None else await run
                held["headers"] = [*map(_weak, filter(_is_kept, held["headers"])), (b"content-encoding", b"gzip")]
                held["headers"].append((b"content-length", b"%d" % len(body)))
                await send(held)
                held = None
            await send(message)

        await self._app(scope, receive, send_compressed if scope["type"] == "http" else send)


def accepts_gzip(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether Accept-Encoding has gzip, or else *, and with another weight than 0."""
    weights: dict[bytes, bool] = {}
    for name, value in headers:
        if name == b"accept-encoding":
            for part in value.lower().split(b","):
                coding, _, weight = part.partition(b";")
                weights[coding.strip()] = weight.replace(b" ", b"").rstrip(b"0.") != b"q="
    return weights.get(b"gzip", weights.get(b"*", False))


def _length(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """The Content-Length; 0 where there is none, as for a stream, or where the body is encoded already."""
    length = 0
    for name, value in headers:
        if name == b"content-length":
            length = int(value)
        elif name == b"content-encoding":
            return 0
    return length


def _gzip(body: bytes) -> bytes:
    return zlib.compress(body, _LEVEL, 16 + zlib.MAX_WBITS)


def _is_kept(header: tuple[bytes, bytes]) -> bool:
    return header[0] != b"content-length"


def _weak(header: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """An ETag of the same content in other bytes."""
    name, value = header
    return (name, b"W/" + value) if name == b"etag" and not value.startswith(b"W/") else header
