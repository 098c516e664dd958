"""How one version takes the place of another: loaded beside it, compared with it, swapped, kept for the way back, unloaded.

At most two versions are in memory. All is called on one event loop, except what loads, which has a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import partial

from polytask.model_store.errors import StoreError
from polytask.service.engine.golden_check import GoldenMismatch
from polytask.service.errors import Conflict, FieldError, InvalidInput, StartupError, UnknownModel
from polytask.service.observability.metrics import Metrics
from polytask.service.versions.answer_drift import task_drifts
from polytask.service.versions.loader import LoadedVersion, VersionLoader
from polytask.service.versions.served import LoadState, LoadStatus

logger = logging.getLogger(__name__)

_TICK_S = 0.01
"""How often it is looked whether the last request of a version has its answer."""


class VersionManager:
    """The versions in memory (`served.Versions`), and what changes them.

    `tolerance`: of tasks for which a load gives no other. `close_s`: how long a batch may take when a worker is to end.
    `on_exit`: called from the thread of the active version's worker when that ends, with its failure or None.
    """

    def __init__(
        self,
        first: LoadedVersion,
        loader: VersionLoader,
        metrics: Metrics,
        tolerance: float,
        close_s: float,
        on_exit: Callable[[Exception | None], None] = lambda _: None,
    ) -> None:
        self.active = first
        self.standby: LoadedVersion | None = None
        self.load: LoadStatus | None = None
        self._loader = loader
        self._metrics = metrics
        self._tolerance = tolerance
        self._close_s = close_s
        self._on_exit = on_exit
        self._can_go_back = False
        self._unloading = False
        self._thread: threading.Thread | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within this block the active version's worker runs; after it all versions are closed."""
        self.active.report_served()
        self.active.worker.start(partial(self._worker_ended, self.active.revision))
        yield
        await self.close()

    @property
    def loading(self) -> str | None:
        """The name and version of what is being loaded."""
        return self.load.model if self.load is not None and self.load.state is LoadState.LOADING else None

    def start_loading(self, reference: str, tolerances: Mapping[str, float]) -> None:
        """Begins to load a version beside the active one; `load` says how far it is.

        Raises UnknownModel, InvalidInput for tolerances of unknown tasks, or Conflict.
        """
        self._require_idle()
        if self.standby is not None:
            raise Conflict(
                f"{self.standby.revision} is on standby, and no more than two are in memory: unload it first"
            )
        try:
            revision = self._loader.resolve(reference)
        except StoreError as error:
            raise UnknownModel(str(error)) from None
        if revision == self.active.revision:
            raise Conflict(f"{revision} is active already")
        for task in tolerances:
            if task not in self.active.tasks:
                known = f"{self.active.revision} has {', '.join(self.active.tasks)}"
                raise InvalidInput([FieldError(f"tolerances.{task[:80]}", f"is no task to compare: {known}")])
        self.load = LoadStatus(revision, LoadState.LOADING)
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._run, args=(revision, dict(tolerances), loop), name="load", daemon=True
        )
        self._thread.start()

    def activate(self) -> None:
        """From now on new requests go to the version on standby; the other one is on standby then. Raises Conflict."""
        self._swap("there is no version on standby: load one")
        self._can_go_back = True
        self._metrics.reloads.labels("activated").inc()

    def rollback(self) -> None:
        """Takes the last `activate` back. Raises Conflict."""
        if not self._can_go_back:
            raise Conflict("no version on standby was active before: activate it, or load one")
        self._swap("")
        self._can_go_back = False
        self._metrics.reloads.labels("rolled_back").inc()

    async def unload(self) -> None:
        """Forgets the version on standby, when it has answered what it has accepted. Raises Conflict."""
        self._require_idle()
        if self.standby is None:
            raise Conflict("there is no version on standby")
        standby, self.standby = self.standby, None
        self._can_go_back, self._unloading = False, True
        try:
            # Deadlines see to it that this ends.
            while standby.num_in_flight:  # noqa: ASYNC110, counted without events as every request counts
                await asyncio.sleep(_TICK_S)
            await asyncio.to_thread(standby.close, self._close_s)
            self._metrics.remove(standby.tasks.keys() - self.active.tasks.keys())
            logger.info("unloaded %s", standby.revision)
            del standby  # the last that holds on to it
            await asyncio.to_thread(_trim)
        finally:
            self._unloading = False

    async def close(self) -> None:
        """Ends all versions; a load that is under way is abandoned."""
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, self._close_s)
        for loaded in filter(None, (self.active, self.standby)):
            await asyncio.to_thread(loaded.close, self._close_s)

    def _require_idle(self) -> None:
        if self.loading is not None:
            raise Conflict(f"{self.loading} is being loaded")
        if self._unloading:
            raise Conflict("a version is being unloaded")

    def _swap(self, otherwise: str) -> None:
        if self.standby is None:
            raise Conflict(otherwise)
        if not self.standby.worker.ready:
            raise Conflict(f"{self.standby.revision} is not ready: its last batch failed, or its device is gone")
        self.active, self.standby = self.standby, self.active
        self.active.touch()
        self.standby.touch()
        self.active.report_served()
        logger.info("%s answers from now on, %s is on standby", self.active.revision, self.standby.revision)

    def _run(self, revision: str, tolerances: Mapping[str, float], loop: asyncio.AbstractEventLoop) -> None:
        """Loads, in a thread of its own."""
        try:
            load, loaded = self._load_and_compare(revision, tolerances)
        except GoldenMismatch as error:
            load, loaded = LoadStatus(revision, LoadState.REFUSED, str(error)), None
        except (StoreError, StartupError) as error:
            load, loaded = LoadStatus(revision, LoadState.FAILED, str(error)), None
        except Exception as error:
            logger.exception("%s could not be loaded", revision)
            load, loaded = LoadStatus(revision, LoadState.FAILED, f"{type(error).__name__}: {error}"), None
        if loaded is None:
            # Errors hold on to frames, and these to the version: it is not to stay until somebody looks for cycles.
            gc.collect()
            _trim()
        # The loop is closed when the service has ended meanwhile.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._loading_done, load, loaded)

    def _load_and_compare(
        self, revision: str, tolerances: Mapping[str, float]
    ) -> tuple[LoadStatus, LoadedVersion | None]:
        active = self.active
        loaded = self._loader.load(revision, active)
        try:
            loaded.worker.start(partial(self._worker_ended, revision))
            loaded.worker.wait_until_ready()
            both = {task: tolerances.get(task, self._tolerance) for task in active.tasks if task in loaded.tasks}
            found = task_drifts(loaded.run, loaded.manifest.tasks, loaded.encoder, active.manifest, both)
        except BaseException:
            loaded.close(self._close_s)
            raise
        load = LoadStatus(
            revision,
            LoadState.LOADED,
            shifts=found,
            new_tasks=tuple(task for task in loaded.tasks if task not in active.tasks),
            gone_tasks=tuple(task for task in active.tasks if task not in loaded.tasks),
        )
        far = [
            f"{task} by {shift.moved:.3g}, over {shift.tolerance:g}" for task, shift in found.items() if shift.refused
        ]
        if not far:
            return load, loaded
        loaded.close(self._close_s)
        detail = f"golden answers of {active.revision} have moved too far: {'; '.join(far)}"
        return replace(load, state=LoadState.REFUSED, detail=detail), None

    def _worker_ended(self, revision: str) -> None:
        # A version that is not active may fail without an effect on the service.
        if revision == self.active.revision:
            self._on_exit(self.active.worker.failure)

    def _loading_done(self, load: LoadStatus, loaded: LoadedVersion | None) -> None:
        self.load, self.standby, self._thread = load, loaded, None
        self._can_go_back = False
        self._metrics.reloads.labels(load.state.value).inc()
        logger.info("%s is %s%s", load.model, load.state, f": {load.detail}" if load.detail else "")


def _trim() -> None:
    """Hands memory that is free back to the system: what a thread has allocated and another freed stays otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc has it
        trim(0)
