"""An engine that records rows and never answers them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from polytask.service.pending import RowPayload
from polytask.service.scheduling.queue import Row


class RecordingEngine:
    """Records queued rows, or refuses them with `refusal`; with `early_refusal` before they are tokenised (`EngineClient`)."""

    def __init__(self) -> None:
        self.ready = True
        self.draining = False
        self.refusal: Exception | None = None
        self.early_refusal: Exception | None = None
        self.estimates: list[tuple[int | None, int, int]] = []
        self.lost = False
        self.rows: list[Row[RowPayload]] = []
        self.cancelled: list[Row[RowPayload]] = []
        self.reasons: list[str | None] = []

    def require_room(self, task_id: int | None, num_tokens: int, before: int, deadline: float) -> None:
        assert deadline > 0
        self.estimates.append((task_id, num_tokens, before))
        if self.early_refusal is not None:
            raise self.early_refusal

    def submit(self, rows: Sequence[Row[RowPayload]]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.rows += rows

    def cancel(self, rows: Collection[Row[RowPayload]], reason: str | None = None) -> None:
        self.cancelled += rows
        self.reasons.append(reason)
