"""Request bodies: compressed ones are read on all paths, and bounded while they are decompressed."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from polytask.service.errors import BodyTooLarge, BrokenEncoding
from polytask.service.web.request_body import _decompressed
from tests.service.support.serving import serving

pytestmark = pytest.mark.anyio

_TENSOR = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["cat"]}
BODIES = {
    "/v1/tasks/mood/predict": {"inputs": ["cat"]},
    "/v1/predict": {"tasks": ["mood"], "inputs": ["cat"]},
    "/v1/models/mood:predict": {"instances": ["cat"]},
    "/v2/models/mood/infer": {"inputs": [_TENSOR]},
}


def bare_deflate(data: bytes) -> bytes:
    """Deflate without zlib's header."""
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


ENCODED: dict[str, list[Callable[[bytes], bytes]]] = {
    "gzip": [gzip.compress],
    "deflate": [zlib.compress, bare_deflate],
    "X-GZip": [gzip.compress],
    "identity": [bytes],
}


async def test_compressed_bodies_are_read_on_all_paths() -> None:
    """gzip, deflate with and without its header, and identity give the answers of the plain body; others are 415."""
    async with serving() as service:
        for path, content in BODIES.items():
            body = json.dumps(content).encode()
            plain = await service.client.post(path, content=body)
            assert plain.status_code == 200
            for encoding, compressions in ENCODED.items():
                for compress in compressions:
                    headers = {"Content-Encoding": encoding}
                    response = await service.client.post(path, content=compress(body), headers=headers)
                    assert response.content == plain.content
            refused = await service.client.post(path, content=body, headers={"Content-Encoding": "br"})
            assert (refused.status_code, refused.headers["Accept-Encoding"]) == (415, "gzip, deflate, identity")
            for broken in (body, gzip.compress(body)[:-3], gzip.compress(body) + b"more", b""):
                response = await service.client.post(path, content=broken, headers={"Content-Encoding": "gzip"})
                assert response.status_code == 400
                assert "is not gzip" in response.text


async def test_binary_tensors_may_be_compressed() -> None:
    """Inference-Header-Content-Length counts the bytes of the decompressed body."""
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 7}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Encoding": "deflate"}
    async with serving() as service:
        body = zlib.compress(head + b"\x03\0\0\0cat")
        response = await service.client.post("/v2/models/mood/infer", content=body, headers=headers)
    assert response.status_code == 200


async def test_a_compressed_body_is_over_the_limit_by_what_it_holds() -> None:
    """A body that is small and becomes large is 413."""
    async with serving(max_body_bytes=1000) as service:
        body = gzip.compress(b" " * 1001)
        response = await service.client.post("/v1/predict", content=body, headers={"Content-Encoding": "gzip"})
    assert response.status_code == 413


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, bare_deflate])
def test_a_bomb_does_not_take_memory(compress: Callable[[bytes], bytes]) -> None:
    """No more than about the limit is decompressed of a body that becomes a thousand times as large."""
    bomb = compress(b" " * 50_000_000)
    encoding = "gzip" if compress is gzip.compress else "deflate"
    tracemalloc.start()
    with pytest.raises(BodyTooLarge):
        _decompressed(bomb, encoding, 100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000
    with pytest.raises(BrokenEncoding):
        _decompressed(bomb[:1000], encoding, 50_000_000)
