"""Compression: which responses are compressed, and that they hold what they would hold without it."""

from __future__ import annotations

import gzip

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from polytask.service.web.middleware.compression import MIN_BYTES, CompressionMiddleware, accepts_gzip
from tests.service.support.serving import serving

pytestmark = pytest.mark.anyio


async def respond(request: Request) -> Response:
    """As many bytes as the path says."""
    return Response(b"abcd" * (request.path_params["size"] // 4), headers={"ETag": '"a"'})


@pytest.mark.parametrize("size", [MIN_BYTES - 4, MIN_BYTES, 1_000_000])
@pytest.mark.parametrize("accepted", ["gzip", "identity"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_large_responses_are_compressed_where_the_client_asks(size: int, accepted: str, method: str) -> None:
    """The content is the same; Vary says that there are two forms, and the ETag of the other form is weak."""
    app = CompressionMiddleware(Starlette(routes=[Route("/{size:int}", respond)]))
    async with (
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        client.stream(method, f"/{size}", headers={"Accept-Encoding": accepted}) as response,
    ):
        raw = b"".join([part async for part in response.aiter_raw()])
    is_compressed = size >= MIN_BYTES and accepted == "gzip" and method == "GET"
    assert response.headers.get("Content-Encoding") == ("gzip" if is_compressed else None)
    assert response.headers["ETag"] == ('W/"a"' if is_compressed else '"a"')
    if method == "GET":
        assert (gzip.decompress(raw) if is_compressed else raw) == b"abcd" * (size // 4)
        assert int(response.headers["Content-Length"]) == len(raw)
        assert response.headers.get("Vary") == ("Accept-Encoding" if size >= MIN_BYTES else None)


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        (b"gzip", True),
        (b"deflate, GZIP;q=0.5", True),
        (b"*", True),
        (b"gzip; q=1.0", True),
        (b"gzip;q=0, *", False),
        (b"gzip; q=0.00", False),
        (b"br", False),
        (b"", False),
    ],
)
def test_the_weights_of_codings_are_heeded(value: bytes, accepted: bool) -> None:
    """A weight of 0 is a refusal, and a name goes before the asterisk."""
    assert accepts_gzip([(b"accept-encoding", value)]) is accepted


async def test_the_service_compresses_its_large_pages() -> None:
    """The document comes with gzip, a short page as it is."""
    async with serving() as service:
        document = await service.client.get("/openapi.json")
        short = await service.client.get("/livez")
    assert document.headers["Content-Encoding"] == "gzip"
    assert document.json()["openapi"]
    assert "Content-Encoding" not in short.headers
    assert "Vary" not in short.headers
