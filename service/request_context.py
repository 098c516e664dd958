"""Request context: what is known about one request, filled in on its way and read for its log line and its trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

REQUEST_CONTEXT = "polytask.request_context"
"""Key of the context in the ASGI scope of a request."""

METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
OTHER_METHOD = "_OTHER"
"""Name of all methods that are not in METHODS, since a client may send any word."""


@dataclass(slots=True, eq=False)
class RequestContext:
    """One request. No field holds client text or a key, so operators may see all of them.

    Times are seconds of `time.monotonic()`. `key`: name of the API key. `tasks`: those tasks of the request that are
    served. `stages`: start and end of each completed stage. `status`: 0 until the response starts. `outcome`: as in the
    metrics. `problem`: type of the problem. `exception`: what the log may show of the error behind it. The fields from
    `ended` on are set when the request is over, and only if it is logged or traced; `route`: path template.
    """

    request_id: str = ""
    arrived: float = 0.0
    key: str | None = None
    tasks: Sequence[str] = ()
    revision: str | None = None
    num_inputs: int = 0
    num_rows: int = 0
    num_tokens: int = 0
    stages: dict[str, tuple[float, float]] = field(default_factory=dict)
    status: int = 0
    outcome: str = "ok"
    problem: str | None = None
    exception: str | None = None
    ended: float = 0.0
    method: str = ""
    route: str = ""
    trace_id: str | None = None

    def seconds(self) -> dict[str, float]:
        """Duration of each completed stage."""
        return {stage: end - start for stage, (start, end) in self.stages.items()}
