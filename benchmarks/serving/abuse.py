"""Abusive traffic: bodies that are no requests, and requests whose clients disconnect."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import httpx

_PATIENCE_S = 60
_PROBLEM = "application/problem+json"
_DEEP, _LONG, _MEGABYTE = 100_000, 20_000, 1_000_000


@dataclass(frozen=True, slots=True)
class Hostile:
    """A body that no path accepts, and its headers. `kind`: its defect."""

    kind: str
    body: bytes
    headers: dict[str, str]


def hostile(number: int, seed: int = 0) -> Iterator[Hostile]:
    """`number` bodies that every path must refuse."""
    generator = random.Random(seed)
    kinds: list[tuple[str, Callable[[random.Random], bytes]]] = [
        ("random bytes", lambda draw: draw.randbytes(draw.randrange(2000))),
        (
            "random text",
            lambda draw: "".join(map(chr, draw.choices(range(32, 0xD800), k=draw.randrange(500)))).encode(),
        ),
        ("cut off", lambda draw: _valid(draw)[: draw.randrange(30)]),
        ("UTF-16", lambda draw: _valid(draw).decode().encode("utf-16")),
        ("Latin-1", lambda _: _all_protocols('"stra\u00dfe"').encode("latin-1")),
        ("gzip", lambda draw: gzip.compress(_valid(draw))[:-1]),
        ("deep", lambda _: _all_protocols("[" * _DEEP + "]" * _DEEP).encode()),
        ("deep and open", lambda draw: draw.choice([b"[", b'{"a":', b'{"inputs":[']) * (_DEEP // 10)),
        ("NaN", lambda draw: _all_protocols(draw.choice(["NaN", "Infinity", "-Infinity", "1e999"])).encode()),
        ("numbers", lambda draw: _all_protocols(draw.choice(["9" * 5000, "-1", "0.1", "true", "null"])).encode()),
        ("lone surrogate", lambda _: _all_protocols('"\\ud800"').encode()),
        ("lone surrogate in UTF-8", lambda _: _all_protocols('"').encode()[:-1] + b'\xed\xa0\x80"]}'),
        ("many inputs", lambda _: _all_protocols(", ".join(['"a"'] * _LONG)).encode()),
        ("many blanks", lambda _: _all_protocols(", ".join(['""'] * _LONG)).encode()),
        ("many labels", lambda _: json.dumps({"inputs": ["a"], "options": {"thresholds": _keys(0.5)}}).encode()),
        ("a megabyte", lambda _: _all_protocols('"' + "a " * (_MEGABYTE // 2) + '"').encode()),
        ("many keys", lambda _: json.dumps(_keys(0)).encode()),
    ]
    lengths = ["-1", "0", "5", "99999999999", "x"]
    for place in range(number):
        kind, make = kinds[place % len(kinds)]
        headers = {"Content-Encoding": "gzip"} if kind == "gzip" else {}
        if generator.random() < 0.1:
            headers["Inference-Header-Content-Length"] = generator.choice(lengths)
        yield Hostile(kind, make(generator), headers)


def refused(client: httpx.Client, path: str, sent: Hostile) -> str | None:
    """The fault in how the service refuses a body; None for a 4xx with a problem."""
    try:
        response = client.post(path, content=sent.body, headers=sent.headers)
    except httpx.HTTPError as error:
        return f"{path}, {sent.kind}: {error!r}"
    if 400 <= response.status_code < 500:
        if response.headers["content-type"] == _PROBLEM and response.json()["type"].startswith("urn:polytask:"):
            return None
        if path.startswith(("/v2/", "/v1/models/")) and list(response.json()) == ["error"]:
            return None
    return f"{path}, {sent.kind}: {response.status_code} {response.text[:200]}"


def posting_paths(client: httpx.Client) -> list[str]:
    """All paths that take a POST, those with a task in them for each task."""
    tasks = [task["name"] for task in client.get("/v1/tasks").json()["tasks"]]
    paths = [path for path, methods in client.get("/openapi.json").json()["paths"].items() if "post" in methods]
    return [path.format(task=task) for path in paths for task in (tasks if "{task}" in path else [""])]


@contextlib.contextmanager
def unanswered(port: int, wire: Sequence[bytes]) -> Iterator[None]:
    """Requests on connections of their own, closed at the end of the block without reading an answer."""
    with contextlib.ExitStack() as connections:
        for request in wire:
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S))
            connection.sendall(request)
        yield


def post(path: str, body: object) -> bytes:
    """A POST of JSON as it goes over the wire."""
    content = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def until(condition: Callable[[], bool]) -> None:
    """Waits until the condition holds. Raises TimeoutError after a minute."""
    end = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("it never happened")
        time.sleep(0.01)


def _all_protocols(value: str) -> str:
    """A body whose `inputs`, and `instances`, are a list of a value that is JSON or nearly so."""
    return f'{{"tasks": ["none"], "inputs": [{value}], "instances": [{value}]}}'


def _keys(value: float) -> dict[str, float]:
    return {f"key {number}": value for number in range(_LONG)}


def _valid(draw: random.Random) -> bytes:
    """A JSON body that some path accepts."""
    return json.dumps({draw.choice(["inputs", "instances"]): ["a text", {"text": "a", "text_pair": "b"}]}).encode()
