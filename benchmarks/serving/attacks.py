"""Attacks: what a connection without a key can send without end, and requests that cost much for their size."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat

_PATH = "/v1/tasks/intent/predict"
_GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
_POST = f"POST {_PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_BLOCK = 64 * 1024
_TEXT = 500_000
"""Characters of a large text: the body that holds it is just within the limit of 512 KiB."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What a connection sends: parts one after the other, `pause_s` between them. `reads`: whether the client reads answers."""

    name: str
    parts: tuple[bytes, ...]
    again: bytes = b""
    pause_s: float = 0.0
    reads: bool = True

    def wire(self) -> Iterator[bytes]:
        """The parts, then `again` without end."""
        return chain(self.parts, repeat(self.again) if self.again else ())


@dataclass(frozen=True, slots=True)
class Call:
    """A request that the service may accept. `headers`: beside those that every request has."""

    name: str
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def streams() -> list[Stream]:
    """One connection each, without a key."""
    lines = (b"x: " + b"b" * 8000 + b"\r\n") * 8
    short = b"a:b\r\n" * (_BLOCK // 5)
    return [
        Stream("nothing", ()),
        Stream("a head that trickles", (_GET,), b"a:b\r\n", pause_s=0.5),
        Stream("a head of one endless line", (b"GET /",), b"a" * _BLOCK),
        Stream("a head of endless lines", (_GET,), short),
        Stream("empty lines", (), b"\r\n" * (_BLOCK // 2)),
        Stream("a request, then an empty line", (_GET + b"\r\n", b"\r\n"), pause_s=0.5),
        Stream("trailers of 8 kB", (_GET + _CHUNKED + b"0\r\n",), lines),
        Stream("trailers of 5 bytes", (_GET + _CHUNKED + b"0\r\n",), short),
        Stream("a trailer without end", (_GET + _CHUNKED + b"0\r\nx: ",), b"b" * _BLOCK),
        Stream("trailers after a refusal", (_POST + _CHUNKED + b"0\r\n",), lines),
        Stream("chunks after a refusal", (_POST + _CHUNKED,), b"10000\r\n" + b"b" * _BLOCK + b"\r\n"),
        Stream("a chunk extension without end", (_POST + _CHUNKED + b"1;x=",), b"b" * _BLOCK),
        Stream("a body after a refusal", (_POST + b"Content-Length: 99999999999\r\n\r\n",), b"b" * _BLOCK),
        Stream("a body that trickles", (_POST + b"Content-Length: 999999\r\n\r\n",), b"b", pause_s=0.5),
        Stream("an upgrade with a body", (_POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + _CHUNKED,), lines),
        Stream("requests without reading", (), (_GET + b"\r\n") * 1000, reads=False),
        Stream("large answers without reading", (), b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n", reads=False),
        Stream("junk", (), bytes(range(256)) * 256),
        Stream("TLS", (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 512,)),
        Stream("odd URLs", (b"CONNECT a:1 HTTP/1.1\r\n\r\n",), b"GET http://evil.example HTTP/1.1\r\nHost: x\r\n\r\n"),
    ]


def calls() -> list[Call]:
    """Requests with a key that cost much for what is sent. They fit the embedded checkpoint's tasks."""
    bomb = gzip.compress(_json(["a" * 50_000_000]))
    detail = {"return_tokens": True, "raw_scores": True}
    window = {"truncation": "window"}
    words = "a " * (_TEXT // 2)
    many = {"tasks": ["intent", "emotions", "toxicity", "entities"], "inputs": ["a"] * 256, "options": detail}
    tensor = {"name": "text", "shape": [256], "datatype": "BYTES", "data": ["a"] * 256}
    candidates = [{"query": "why " * 100, "candidates": ["word " * 100] * 128}]
    return [
        Call("256 texts of one letter, 77 labels", _PATH, _json(["a"] * 256)),
        Call("the same for four tasks, with tokens", "/v1/predict", json.dumps(many).encode()),
        Call("the same by the v2 protocol", "/v2/models/intent/infer", json.dumps({"inputs": [tensor]}).encode()),
        Call("256 inputs that are no texts, per item", _PATH, _json([0] * 256, errors="per_item")),
        Call("500 kB of words, classification", _PATH, _json([words])),
        Call("500 kB of words, classification, windows", _PATH, _json([words], options=window)),
        Call("500 kB of one letter, classification", _PATH, _json(["a" * _TEXT])),
        Call("500 kB of signs, tagging", _task("entities"), _json(["@" * _TEXT])),
        Call("500 kB of words, tagging", _task("entities"), _json([words])),
        Call(
            "80 kB of words, tagging, windows, tokens",
            _task("entities"),
            _json(["a " * 40_000], options=window | detail),
        ),
        Call("500 kB of context, span", _task("answer"), _json([_question(words)])),
        Call("500 kB of context, span, windows", _task("answer"), _json([_question(words)], options=window)),
        Call(
            "500 kB of context, span, windows, tokens",
            _task("answer"),
            _json([_question(words)], options=window | detail),
        ),
        Call("128 candidates of 100 words", _task("relevance"), _json(candidates)),
        Call("100,000 brackets", _PATH, b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        Call("20,000 thresholds", _PATH, _json(["a"], options={"thresholds": {f"k{n}": 0.5 for n in range(20_000)}})),
        Call("50 MB in 50 kB of gzip", _PATH, bomb, {"Content-Encoding": "gzip"}),
    ]


def _task(name: str) -> str:
    return f"/v1/tasks/{name}/predict"


def _question(context: str) -> dict[str, str]:
    return {"question": "what is it?", "context": context}


def _json(inputs: Sequence[object], **more: object) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()
