"""The playground: the page at `/` where a person sees the model work, with its files as they lie in the package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath

from fastapi import APIRouter, HTTPException, Request, Response

_PAGE = "index.html"

# Not left to the machine's own tables: a wrong type is a script that does not run.
_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}

_HEADERS = {
    # Kept by browsers, and asked for again each time, which costs one small answer: after an upgrade no page is a
    # mixture of two versions for longer than it takes to load it.
    "Cache-Control": "no-cache",
    # Nothing from anywhere else, nothing inline, and no way from a text to markup.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


def playground_routes() -> APIRouter:
    """`/` and `/playground/…`. The files are read here, once; a path that is none of them is 404."""
    kept = {
        entry.name: _file(entry.name, entry.read_bytes())
        for entry in files("polytask.service.web").joinpath("playground").iterdir()
    }
    router = APIRouter(include_in_schema=False)

    @router.head("/")
    @router.get("/")
    async def page(request: Request) -> Response:
        return _respond(request, kept[_PAGE])

    @router.head("/playground/{name}")
    @router.get("/playground/{name}")
    async def file(request: Request, name: str) -> Response:
        if name not in kept or name == _PAGE:  # the page's own links lead from `/`
            raise HTTPException(404, f"the playground has no file {name[:80]!r}; its page is at /")
        return _respond(request, kept[name])

    return router


def _file(name: str, content: bytes) -> _File:
    return _File(content, _TYPES[PurePath(name).suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _respond(request: Request, file: _File) -> Response:
    headers = _HEADERS | {"ETag": file.etag}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")}
    if known & {file.etag, "*"}:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
