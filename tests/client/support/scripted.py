"""Scripted HTTP server: it refuses, breaks, hangs, trickles, or answers like a service."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: Any

    @property
    def deadline_ms(self) -> int:
        """The deadline in the request's header."""
        return int(self.headers["polytask-deadline-ms"])


@dataclass
class Server:
    """The server's address, the requests it got, and the remaining steps of its script; the last step repeats."""

    url: str
    script: list[Step]
    asked: list[Asked] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def next_step(self, asked: Asked) -> Step:
        """Records the request, and returns the step that answers it."""
        self.asked.append(asked)
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are written one after the other
    played: Server

    def do_POST(self) -> None:
        """Takes the next step."""
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.path, headers, json.loads(content) if content else None)
        with contextlib.suppress(ConnectionError):  # of clients that have given up
            self.played.next_step(asked)(self, asked)

    do_GET = do_POST  # noqa: N815, the name is the standard library's

    def say(self, status: int, body: Any, headers: dict[str, str]) -> None:
        """Sends a whole response."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


Step = Callable[[Handler, Asked], None]


def says(status: int, body: Any = None, **headers: str) -> Step:
    """A step that sends this response. Underscores in header names become hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, _: handler.say(status, body, named)


def problem(status: int, title: str = "Busy", **fields: Any) -> Step:
    """A step that sends a problem as the service writes it."""
    after = {"Retry_After": str(fields["retry_after_s"])} if "retry_after_s" in fields else {}
    body = {"type": "urn:polytask:busy", "title": title, "status": status, "detail": "not now", **fields}
    return says(status, body, **after)


def breaks(handler: Handler, _: Asked) -> None:
    """Closes the connection in the middle of a response."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"{")
    handler.close_connection = True


def hangs(handler: Handler, _: Asked) -> None:
    """Sends no response; the connection ends with the test."""
    handler.played.over.wait()
    handler.close_connection = True


def trickles(handler: Handler, _: Asked) -> None:
    """Sends a byte of the response now and then, without end."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while not handler.played.over.wait(0.01):
        handler.wfile.write(b" ")


def floods(handler: Handler, _: Asked) -> None:
    """Sends a response as fast as the client reads it, without end."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000000000")
    handler.end_headers()
    while not handler.played.over.is_set():
        handler.wfile.write(b" " * 65_536)


def numbers(limit: int = 1000) -> Step:
    """A step that answers texts that are numbers with their value, and refuses others, and too many, as the service does."""

    def answer(handler: Handler, asked: Asked) -> None:
        if asked.body is None:
            tasks = [{"name": name, "kind": "regression"} for name in ("number", "other")]
            handler.say(200, {"model": "numbers/1", "tasks": tasks}, {})
            return
        inputs = asked.body["inputs"]
        wrong = [index for index, text in enumerate(inputs) if not (isinstance(text, str) and text.isdecimal())]
        if len(inputs) > limit:
            errors = [{"field": "inputs", "message": f"{len(inputs)} inputs, the limit is {limit}"}]
            problem(413, "Too many inputs", errors=errors)(handler, asked)
        elif wrong:
            errors = [{"field": f"inputs[{index}]", "message": "must be a number"} for index in wrong[:3]]
            problem(422, "Invalid input", errors=errors, detail=f"inputs[{wrong[0]}]: must be a number")(handler, asked)
        else:
            answers = [{"value": float(text)} for text in inputs]
            handler.say(200, {"task": "number", "model": "numbers/1", "answers": answers, "truncated": []}, {})

    return answer


@contextlib.contextmanager
def scripted(*script: Step) -> Iterator[Server]:
    """A server that takes these steps, one for each request."""
    handler = type("Playing", (Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        server = Server(f"http://127.0.0.1:{listening.server_port}", list(script))
        handler.played = server  # type: ignore[attr-defined]
        listening.daemon_threads = True
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            listening.shutdown()
            thread.join()
