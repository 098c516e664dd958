"""Engine client: the interface through which rows are queued, in this process or in an engine process."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from polytask.service.errors import (
    ClientGone,
    DeadlineExceeded,
    Draining,
    NotReady,
    QueueFull,
    ServiceError,
    TaskQuotaFull,
    TooLongToRun,
)
from polytask.service.observability.request_metrics import DEADLINE, DISCONNECT
from polytask.service.pending import RowPayload
from polytask.service.scheduling.queue import Full, QuotaFull, Refused, Row, TooLarge

_DRAINING = "the service answers what it has accepted and takes nothing new"
_DROP_REASONS: dict[type[BaseException], str] = {DeadlineExceeded: DEADLINE, ClientGone: DISCONNECT}


class EngineClient(Protocol):
    """Takes rows and answers them through the result sink in their payload."""

    @property
    def ready(self) -> bool:
        """Whether rows would be answered."""

    @property
    def draining(self) -> bool:
        """Whether the engine is shutting down and accepts no more rows."""

    @property
    def lost(self) -> bool:
        """Whether only a restart of this process would help."""

    def require_room(self, task_id: int | None, num_tokens: int, before: int, deadline: float) -> None:
        """Raises queue.Refused if a request is sure to be refused.

        `task_id`: None if unknown. `num_tokens`: estimated tokens of the request. `before`: estimated tokens of requests
        that are being tokenised and will be queued first.
        """

    def submit(self, rows: Sequence[Row[RowPayload]]) -> None:
        """Queues all rows of a request or none, and counts them.

        Raises queue.Refused. A refusal that is known only later fails the request through its result sink.
        """

    def cancel(self, rows: Collection[Row[RowPayload]], reason: str | None = None) -> None:
        """Removes those rows of a request that have not started, and counts them as dropped for the reason."""


def require_ready(engine: EngineClient) -> None:
    """Raises NotReady or Draining if rows would not be answered."""
    if engine.draining:
        raise Draining(_DRAINING)
    if not engine.ready:
        raise NotReady("the service is warming up, its last batch failed, or its device hangs", retry_after_s=1)


def require_live(engine: EngineClient) -> None:
    """Raises NotReady if only a restart of this process would help."""
    if engine.lost:
        raise NotReady("the device has hung for so long that only a restart helps")


def refusal(error: Refused) -> ServiceError:
    """The error for a client whose rows the queue refuses."""
    if isinstance(error, TooLarge):
        return TooLongToRun(error.num_tokens, error.most_tokens, error.deadline_s)
    if isinstance(error, QuotaFull):
        return TaskQuotaFull(f"no room for more of this task: {error}", retry_after_s=error.wait_s)
    if isinstance(error, Full):
        return QueueFull(f"no room: {error}", retry_after_s=error.wait_s)
    return Draining(_DRAINING)


def drop_reason(error: BaseException) -> str | None:
    """The metric label under which the rows of a request that ends with `error` are dropped."""
    return _DROP_REASONS.get(type(error))
