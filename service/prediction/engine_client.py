"""A request from its body to its answers: check, tokenise, put in line, wait, decode.

Knows the tasks and the limits, neither HTTP nor the device. What it puts in line comes back through the ticket that
goes along.
"""

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
)
from polytask.service.observability.request_metrics import DEADLINE, DISCONNECT
from polytask.service.pending import RowPayload
from polytask.service.scheduling.queue import Closed, Full, QuotaFull, Row

_DRAINING = "the service answers what it has accepted and takes nothing new"
_DROP_REASONS: dict[type[BaseException], str] = {DeadlineExceeded: DEADLINE, ClientGone: DISCONNECT}


class EngineClient(Protocol):
    """Where rows are handed in."""

    @property
    def ready(self) -> bool:
        """Whether rows would be answered."""

    @property
    def draining(self) -> bool:
        """Whether no rows will ever be taken again."""

    def recover(self) -> None:
        """Asks for another try when not ready."""

    def require_room(self, task_id: int | None, num_tokens: int, before: int, deadline: float) -> None:
        """Raises queue.Full or queue.Closed if it knows that it will not take a request.

        `task_id`: None where it is not known. `num_tokens`: about as many as it has. `before`: those that come first.
        """

    def submit(self, rows: Sequence[Row[RowPayload]]) -> None:
        """Takes all rows of a request or none, and counts them.

        Raises queue.Full or queue.Closed; or, where that is only known later, fails their ticket with `refusal` of it.
        """

    def cancel(self, rows: Collection[Row[RowPayload]], reason: str | None = None) -> None:
        """Forgets those rows of a request that have not been started, and counts them as dropped for the reason."""


def require_ready(engine: EngineClient) -> None:
    """Raises NotReady or Draining where rows would not be answered; asks for another try where that may help."""
    if engine.draining:
        raise Draining(_DRAINING)
    if not engine.ready:
        engine.recover()
        raise NotReady("the service is warming up, or its last batch failed", retry_after_s=1)


def refusal(error: Full | Closed) -> ServiceError:
    """What a client is told whose rows the line does not take."""
    if isinstance(error, QuotaFull):
        return TaskQuotaFull(f"no room for more of this task: {error}", retry_after_s=error.wait_s)
    if isinstance(error, Full):
        return QueueFull(f"no room: {error}", retry_after_s=error.wait_s)
    return Draining(_DRAINING)


def drop_reason(error: BaseException) -> str | None:
    """Why the rows of a request that ends with `error` are dropped, as the metrics count it."""
    return _DROP_REASONS.get(type(error))
