"""Requests as spans of OpenTelemetry, made when they are over. Needs the extra `tracing`; imported where that is asked for.

Where spans go, which are kept and what the service is called, the standard `OTEL_` variables say.
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

from polytask.service.observability.request_ids import trace_id
from polytask.service.request_context import OTHER_METHOD, RequestContext

_FLUSH_S = 3.0
"""How long the last spans may take to be sent when the service ends."""


class SpanTraces:
    """A span for each request and one for each of its stages, sent to a collector from a thread of their own."""

    def __init__(self) -> None:
        # What the variables say goes before our own.
        own: dict[str, AttributeValue] = {
            "service.name": "polytask",
            "service.version": version("polytask"),
            "process.pid": os.getpid(),
        }
        resource = Resource.create(own).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("polytask", version("polytask"))
        self._propagator = TraceContextTextMapPropagator()

    def trace(self, context: RequestContext, scope: Scope) -> str | None:
        """Makes the spans of a request that is over; the id of its trace if that one is kept."""
        # From the clock of the stages to the one of traces, the same for all spans of a request.
        before_ns = time.time_ns() - round(time.monotonic() * 1e9)

        def at(seconds: float) -> int:
            return before_ns + round(seconds * 1e9)

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
            # Rows that ran together began at the same time, to the bit.
            own = {"polytask.batch": f"{start:.6f}"} if stage == "forward" else None
            self._tracer.start_span(stage, inside, attributes=own, start_time=at(start)).end(at(end))
        span.end(at(context.ended))
        return format_trace_id(span.get_span_context().trace_id)

    def close(self) -> None:
        """Sends the spans that are left. A collector that cannot be reached is not waited for long."""
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(_FLUSH_S)

    def _parent(self, scope: Scope) -> Context:
        """The span that a request comes from, by a valid `traceparent`."""
        if trace_id(scope["headers"]) is None:
            return Context()
        names = (b"traceparent", b"tracestate")
        carrier = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in names}
        return self._propagator.extract(carrier, Context())


def _attributes(context: RequestContext, scope: Scope) -> dict[str, AttributeValue]:
    """What is known of a request, by the semantic conventions where they have a name for it.

    Not its path, which they ask for: it may hold whatever a client has put there.
    """
    known: dict[str, AttributeValue | None] = {
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
        known |= {
            "polytask.inputs": context.num_inputs,
            "polytask.rows": context.num_rows,
            "polytask.tokens": context.num_tokens,
        }
    return {name: value for name, value in known.items() if value is not None}
