"""The course of a request: what is known of it so far, filled in on its way, for its line in the log and its trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

REQUEST_CONTEXT = "polytask.request_context"
"""Where the scope of a request has it."""

METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
OTHER_METHOD = "_OTHER"


@dataclass(slots=True, eq=False)
class RequestContext:
    """One request. Nothing of it is a text of the client or a key, so all of it may be shown to operators.

    Times are seconds of `time.monotonic()`. `key`: the name of its API key. `tasks`: those that are served among what it
    is for. `stages`: when each that is over began and ended. `status` is 0 before a response. `outcome` is as the metrics
    count it, `problem` the type of a problem, `exception` what the log may have of the failure behind it. From `ended` on
    all is known when the request is over, and only if somebody looks at it; `route`: its path as it is documented.
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
        """How long each stage took."""
        return {stage: end - start for stage, (start, end) in self.stages.items()}
