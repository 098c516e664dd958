"""A load as clients see it: what is loaded, how far it is, and how far its answers are from those of the active version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from polytask.model_store.manifest import Manifest
from polytask.service.api.task_info import TaskInfo, revision
from polytask.service.errors import SingleProcessOnly
from polytask.service.prediction.engine_client import EngineClient
from polytask.service.prediction.predictor import Predictor


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What runs a version: the engine, the type that it computes in, and where."""

    name: str
    precision: str
    device: str


@dataclass(eq=False, kw_only=True)
class ServedVersion:
    """A version in memory. `card`: its text in Markdown. `backend`: None where other processes run it.

    `since`: when it was loaded or last took or left its place. `num_in_flight`: requests that it has to answer, counted on
    the event loop.
    """

    manifest: Manifest
    engine: EngineClient
    predictor: Predictor
    tasks: Mapping[str, TaskInfo]
    card: str
    backend: BackendInfo | None = None
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    num_in_flight: int = 0
    revision: str = field(init=False)

    def __post_init__(self) -> None:
        self.revision = revision(self.manifest)

    def touch(self) -> None:
        """Notes that it has taken or left its place just now."""
        self.since = datetime.now(UTC)

    def examples(self) -> dict[str, Any]:
        """The responses to the examples in `tasks`, by task, as far as they are known: a task's first golden one."""
        goldens = {golden.task: golden for golden in reversed(self.manifest.goldens)}
        return {name: self.predictor.preparer.example(goldens[name]) for name in self.tasks if name in goldens}


class Versions(Protocol):
    """The versions in memory. A request handler reads `active` once and uses that version until it has answered."""

    @property
    def active(self) -> ServedVersion:
        """The version that answers new requests."""

    @property
    def standby(self) -> ServedVersion | None:
        """A version that is warm and could take its place."""

    @property
    def loading(self) -> str | None:
        """The name and version of what is being loaded."""

    @property
    def load(self) -> LoadStatus | None:
        """The last load."""

    def start_loading(self, reference: str, tolerances: Mapping[str, float]) -> None:
        """Starts to load a version. Raises UnknownModel, InvalidInput or Conflict."""

    def activate(self) -> None:
        """Makes the standby version the active one. Raises Conflict."""

    def rollback(self) -> None:
        """Undoes the last `activate`. Raises Conflict."""

    async def unload(self) -> None:
        """Removes the standby version from memory. Raises Conflict."""


@dataclass(frozen=True)
class FixedVersion:
    """One version for as long as the process lives (`Versions`). All that would change it raises SingleProcessOnly."""

    active: ServedVersion
    standby: None = None
    loading: None = None

    @property
    def load(self) -> LoadStatus | None:
        """Raises SingleProcessOnly."""
        raise SingleProcessOnly

    def start_loading(self, reference: str, tolerances: Mapping[str, float]) -> None:  # noqa: ARG002
        """Raises SingleProcessOnly."""
        raise SingleProcessOnly

    def activate(self) -> None:
        """Raises SingleProcessOnly."""
        raise SingleProcessOnly

    def rollback(self) -> None:
        """Raises SingleProcessOnly."""
        raise SingleProcessOnly

    async def unload(self) -> None:
        """Raises SingleProcessOnly."""
        raise SingleProcessOnly


class LoadState(StrEnum):
    """How far a load is: `refused` by golden answers, `failed` where it could not be run at all."""

    LOADING = "loading"
    LOADED = "loaded"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TaskDrift:
    """How far the answers of a task have moved, how far they may, and whether that is too far."""

    moved: float
    tolerance: float
    refused: bool


@dataclass(frozen=True, slots=True)
class LoadStatus:
    """A load, under way or over. `detail`: why it was refused or failed. `shifts`: of tasks that both versions have.

    `new_tasks`, `gone_tasks`: those that only the loaded or only the active version has.
    """

    model: str
    state: LoadState
    detail: str | None = None
    shifts: dict[str, TaskDrift] = field(default_factory=dict)
    new_tasks: tuple[str, ...] = ()
    gone_tasks: tuple[str, ...] = ()
