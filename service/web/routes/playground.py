"""Playground routes: the demo page at `/` and its files, served from the package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath

from fastapi import APIRouter, HTTPException, Request, Response

_PAGE = "index.html"

# Not looked up in the machine's own tables: with a wrong media type a script does not run.
_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}

_HEADERS = {
    # Browsers keep the files and revalidate them each time, which costs one small response. After an upgrade no page
    # stays a mixture of two versions.
    "Cache-Control": "no-cache",
    # Nothing from other origins, nothing inline, and no way to turn a text into markup.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


def playground_routes() -> APIRouter:
    """`/` and `/playground/…`. Reads the files once; other names are 404."""
    file_by_name = {
        entry.name: _file(entry.name, entry.read_bytes())
        for entry in files("polytask.service.web").joinpath("playground").iterdir()
    }
    router = APIRouter(include_in_schema=False)

    @router.head("/")
    @router.get("/")
    async def page(request: Request) -> Response:
        return _respond(request, file_by_name[_PAGE])

    @router.head("/playground/{name}")
    @router.get("/playground/{name}")
    async def file(request: Request, name: str) -> Response:
        if name not in file_by_name or name == _PAGE:  # the page's links are relative to `/`
            raise HTTPException(404, f"the playground has no file {name[:80]!r}; its page is at /")
        return _respond(request, file_by_name[name])

    return router


def _file(name: str, content: bytes) -> _File:
    return _File(content, _TYPES[PurePath(name).suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _respond(request: Request, file: _File) -> Response:
    headers = _HEADERS | {"ETag": file.etag}
    cached = {tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")}
    if cached & {file.etag, "*"}:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
