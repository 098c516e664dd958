"""Request bodies: read up to a limit, and decompressed up to the same limit."""

from __future__ import annotations

import asyncio
import zlib
from codecs import BOM_UTF8

from fastapi import Request

from polytask.service.errors import BodyTooLarge, BrokenEncoding, ClientGone, UnsupportedEncoding

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


async def read_body(request: Request, limit: int) -> bytes:
    """The body without its Content-Encoding, whatever its Content-Length. At most `limit` bytes are kept of either form.

    Without a byte order mark, which some editors and shells write, and readers of JSON may ignore (RFC 8259, 8.1).
    Raises BodyTooLarge, ClientGone, UnsupportedEncoding or BrokenEncoding.
    """
    encoding = _encoding(request)
    body, more = b"", True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the connection was closed before the request was complete")
        # Usually the whole body is one message, which is not copied.
        body += message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLarge(limit)
        more = message.get("more_body", False)
    if encoding:
        # On a thread, since it takes milliseconds.
        body = await asyncio.to_thread(_decompressed, body, encoding, limit)
    return body.removeprefix(BOM_UTF8)


def _encoding(request: Request) -> str:
    """The Content-Encoding of the body; empty for none. Raises UnsupportedEncoding."""
    for name, value in request.scope["headers"]:
        if name == b"content-encoding":
            encoding = value.decode("latin-1").strip().lower().removeprefix("x-")
            if encoding in {"gzip", "deflate"}:
                return str(encoding)
            if encoding not in {"", "identity"}:
                raise UnsupportedEncoding(encoding)
    return ""


def _decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """A compressed body: one member of gzip, or deflate with or without zlib's header."""
    stream = zlib.decompressobj(_GZIP if encoding == "gzip" else _ZLIB if _has_zlib_header(body) else _RAW)
    try:
        decompressed = stream.decompress(body, limit + 1)
    except zlib.error:
        raise BrokenEncoding(encoding) from None
    if len(decompressed) > limit:
        raise BodyTooLarge(limit)
    if not stream.eof or stream.unused_data:
        raise BrokenEncoding(encoding)
    return decompressed


def _has_zlib_header(body: bytes) -> bool:
    """Whether it begins as RFC 1950 says. Some clients send bare deflate."""
    return len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
