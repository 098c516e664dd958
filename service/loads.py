"""A load as clients see it: what is loaded, how far it is, and how far its answers are from those of the active version."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class LoadState(StrEnum):
    """How far a load is: `refused` by golden answers, `failed` where it could not be run at all."""

    LOADING = "loading"
    LOADED = "loaded"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Shift:
    """How far the answers of a task have moved, how far they may, and whether that is too far."""

    moved: float
    tolerance: float
    refused: bool


@dataclass(frozen=True, slots=True)
class Load:
    """A load, under way or over. `detail`: why it was refused or failed. `shifts`: of tasks that both versions have.

    `new_tasks`, `gone_tasks`: those that only the loaded or only the active version has.
    """

    model: str
    state: LoadState
    detail: str | None = None
    shifts: dict[str, Shift] = field(default_factory=dict)
    new_tasks: tuple[str, ...] = ()
    gone_tasks: tuple[str, ...] = ()
