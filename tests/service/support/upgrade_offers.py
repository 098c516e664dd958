"""Requests that offer an upgrade, as every plain Java client sends them, to all paths that take predictions."""

from __future__ import annotations

import json
import re
import socket
import time

from tests.service.support.processes import PATIENCE_S

_TENSOR = {"name": "text", "datatype": "BYTES", "shape": [1]}
_BINARY_HEAD = json.dumps({"inputs": [_TENSOR | {"parameters": {"binary_data_size": 7}}]}).encode()

_BODIES = {
    "/v1/tasks/mood/predict": (b'{"inputs": ["cat"]}', b""),
    "/v1/predict": (b'{"tasks": ["mood", "topics"], "inputs": ["cat"]}', b""),
    "/v1/models/mood:predict": (b'{"instances": ["cat"]}', b""),
    "/v2/models/mood/infer": (json.dumps({"inputs": [_TENSOR | {"data": ["cat"]}]}).encode(), b""),
    "/v2/models/mood/versions/1/infer": (
        _BINARY_HEAD + b"\x03\0\0\0cat",
        b"Inference-Header-Content-Length: %d\r\n" % len(_BINARY_HEAD),
    ),
}


def statuses(address: tuple[str, int]) -> dict[str, list[int]]:
    """The statuses by path: of a body with a length and a chunked one, each in a segment of its own, and of a last GET."""
    return {path: _statuses(address, path, body, headers) for path, (body, headers) in _BODIES.items()}


def _statuses(address: tuple[str, int], path: str, body: bytes, headers: bytes) -> list[int]:
    head = b"POST %b HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" % path.encode()
    head += b"HTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n" + headers
    parts = [
        head + b"Content-Length: %d\r\n\r\n" % len(body),
        body,
        head + b"Transfer-Encoding: chunked\r\n\r\n",
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        b"GET /livez HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
    ]
    with socket.create_connection(address, timeout=PATIENCE_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            client.sendall(part)
            time.sleep(0.02)
        received = b"".join(iter(lambda: client.recv(100_000), b""))
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", received)]
