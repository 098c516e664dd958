"""Tracing: OpenTelemetry spans of requests, created when a request has ended. Needs the extra `tracing`.

The standard `OTEL_` variables set the collector, the sampling and the service name.
"""

from __future__ import annotations

import os
import threading
import time
from importlib.metadata import version

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from starlette.types import Scope

from polytask.service.request_context import OTHER_METHOD, RequestContext, trace_id

_FLUSH_S = 3.0
"""How long shutdown waits for the last spans to be sent."""


class SpanTraces:
    """Creates a span for each request and each of its stages. A thread sends them to a collector."""

    def __init__(self) -> None:
        # The variables override these.
        defaults: dict[str, AttributeValue] = {
            "service.name": "polytask",
            "service.version": version("polytask"),
            "process.pid": os.getpid(),
        }
        resource = Resource.create(defaults).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("polytask", version("polytask"))
        self._propagator = TraceContextTextMapPropagator()

    def trace(self, context: RequestContext, scope: Scope) -> str | None:
        """Creates the spans of a request that has ended. Returns the id of its trace if that is sampled."""
        # Offset from the monotonic clock of the stages to the wall clock of traces, one for all spans of a request.
        offset_ns = time.time_ns() - round(time.monotonic() * 1e9)

        def at(seconds: float) -> int:
            return offset_ns + round(seconds * 1e9)

        span = self._tracer.start_span(
            f"{'HTTP' if context.method == OTHER_METHOD else context.method} {context.route}".strip(),
            self._parent(scope),
            SpanKind.SERVER,
            _attributes(context, scope),
            start_time=at(context.arrived),
        )
        if not span.is_recording():
            return None
        if context.status >= 500:
            span.set_status(StatusCode.ERROR)
            span.set_attribute("error.type", context.problem or str(context.status))
        inside = set_span_in_context(span, Context())
        for stage, (start, end) in context.stages.items():
            # Rows of one batch have exactly the same start.
            attributes = {"polytask.batch": f"{start:.6f}"} if stage == "forward" else None
            self._tracer.start_span(stage, inside, attributes=attributes, start_time=at(start)).end(at(end))
        span.end(at(context.ended))
        return format_trace_id(span.get_span_context().trace_id)

    def close(self) -> None:
        """Sends the remaining spans. Waits at most some seconds for a collector that cannot be reached."""
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(_FLUSH_S)

    def _parent(self, scope: Scope) -> Context:
        """The client's span, from a valid `traceparent`."""
        if trace_id(scope["headers"]) is None:
            return Context()
        names = (b"traceparent", b"tracestate")
        carrier = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in names}
        return self._propagator.extract(carrier, Context())


def _attributes(context: RequestContext, scope: Scope) -> dict[str, AttributeValue]:
    """The known attributes of a request, named by the semantic conventions where these have a name.

    Without the path that the conventions require: a client may have put anything into it.
    """
    attributes: dict[str, AttributeValue | None] = {
        "http.request.method": context.method,
        "http.route": context.route or None,
        "http.response.status_code": context.status or None,
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version"),
        "polytask.request_id": context.request_id,
        "polytask.outcome": context.outcome,
        "polytask.problem": context.problem,
        "polytask.task": ",".join(context.tasks) or None,
        "polytask.revision": context.revision,
        "polytask.key": context.key,
    }
    if context.num_inputs:
        attributes |= {
            "polytask.inputs": context.num_inputs,
            "polytask.rows": context.num_rows,
            "polytask.tokens": context.num_tokens,
        }
    return {name: value for name, value in attributes.items() if value is not None}
