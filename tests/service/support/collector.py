"""A collector of traces, as OpenTelemetry's exporters speak to one: OTLP over HTTP, in protobuf."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


def attributes(pairs: Any) -> dict[str, Any]:
    """The attributes of a span or a resource as a dict."""

    def value(pair: KeyValue) -> Any:
        return getattr(pair.value, pair.value.WhichOneof("value") or "string_value")

    return {pair.key: value(pair) for pair in pairs}


@dataclass
class Collector:
    """The spans received so far. `raw`: the bodies of requests; `resources`: the attributes of the senders."""

    url: str
    raw: list[bytes] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)

    def servers(self) -> list[Span]:
        """The spans of requests, in the order of their starts."""
        kinds = [span for span in self.spans if span.kind == Span.SPAN_KIND_SERVER]
        return sorted(kinds, key=lambda span: span.start_time_unix_nano)

    def children(self, parent: Span) -> list[Span]:
        """The spans directly inside of one, in the order of their starts."""
        inside = [span for span in self.spans if span.parent_span_id == parent.span_id]
        return sorted(inside, key=lambda span: span.start_time_unix_nano)


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """A collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            request = ExportTraceServiceRequest.FromString(body)
            found.raw.append(body)
            for resource in request.resource_spans:
                found.resources.append(attributes(resource.resource.attributes))
                found.spans += [span for scope in resource.scope_spans for span in scope.spans]
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
