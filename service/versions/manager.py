"""Version manager: loads a version beside the active one, compares their answers, swaps, rolls back and unloads.

At most two versions are in memory. All methods are called on one event loop; a load runs on its own thread.
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
from polytask.service.engine.worker import Worker
from polytask.service.errors import Conflict, FieldError, InvalidInput, StartupError, UnknownModel
from polytask.service.observability.metrics import Metrics
from polytask.service.versions.answer_drift import task_drifts
from polytask.service.versions.loader import LoadedVersion, VersionLoader
from polytask.service.versions.served import LoadState, LoadStatus

logger = logging.getLogger(__name__)

_TICK_S = 0.01
"""Interval of polling whether a version has answered its last request."""


class VersionManager:
    """The versions in memory (`served.Versions`).

    `tolerance`: answer drift allowed for tasks that a load request does not name. `close_s`: time limit for the last batch
    of a worker that is stopped. `on_exit`: called from the thread of the active version's worker when that ends, with its failure or None.
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
        self._can_roll_back = False
        self._unloading = False
        self._load_thread: threading.Thread | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within this block the active version's worker runs; after it all versions are closed."""
        self.active.report_served()
        self.active.worker.start(partial(self._worker_ended, self.active.worker))
        yield
        await self.close()

    @property
    def loading(self) -> str | None:
        """Name and version of the version that is being loaded."""
        return self.load.model if self.load is not None and self.load.state is LoadState.LOADING else None

    def start_loading(self, reference: str, tolerances: Mapping[str, float]) -> None:
        """Starts to load a version beside the active one; `load` is its status.

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
                tasks = f"{self.active.revision} has {', '.join(self.active.tasks)}"
                raise InvalidInput([FieldError(f"tolerances.{task[:80]}", f"is no task to compare: {tasks}")])
        self.load = LoadStatus(revision, LoadState.LOADING)
        loop = asyncio.get_running_loop()
        self._load_thread = threading.Thread(
            target=self._load_in_thread, args=(revision, dict(tolerances), loop), name="load", daemon=True
        )
        self._load_thread.start()

    def activate(self) -> None:
        """Swaps the active and the standby version for new requests. Raises Conflict."""
        self._swap("there is no version on standby: load one")
        self._can_roll_back = True
        self._metrics.reloads.labels("activated").inc()

    def rollback(self) -> None:
        """Undoes the last `activate`. Raises Conflict."""
        if not self._can_roll_back:
            raise Conflict("no version on standby was active before: activate it, or load one")
        self._swap("")
        self._can_roll_back = False
        self._metrics.reloads.labels("rolled_back").inc()

    async def unload(self) -> None:
        """Removes the standby version from memory when it has answered its requests in flight. Raises Conflict."""
        self._require_idle()
        if self.standby is None:
            raise Conflict("there is no version on standby")
        standby, self.standby = self.standby, None
        self._can_roll_back, self._unloading = False, True
        try:
            # Deadlines bound this wait.
            while standby.num_in_flight:  # noqa: ASYNC110, an event would cost every request
                await asyncio.sleep(_TICK_S)
            await asyncio.to_thread(standby.close, self._close_s)
            self._metrics.remove(standby.tasks.keys() - self.active.tasks.keys())
            logger.info("unloaded %s", standby.revision)
            del standby  # the last reference
            await asyncio.to_thread(_trim_heap)
        finally:
            self._unloading = False

    async def close(self) -> None:
        """Closes all versions. Waits `close_s` for a load in progress, then abandons it."""
        if self._load_thread is not None:
            await asyncio.to_thread(self._load_thread.join, self._close_s)
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

    def _load_in_thread(self, revision: str, tolerances: Mapping[str, float], loop: asyncio.AbstractEventLoop) -> None:
        """Body of the load thread."""
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
            # The error refers to frames, and these to the version, in cycles. Collecting now frees its memory at once.
            gc.collect()
            _trim_heap()
        # The loop is closed if the service has shut down in the meantime.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._loading_done, load, loaded)

    def _load_and_compare(
        self, revision: str, tolerances: Mapping[str, float]
    ) -> tuple[LoadStatus, LoadedVersion | None]:
        active = self.active
        loaded = self._loader.load(revision, active)
        try:
            loaded.worker.start(partial(self._worker_ended, loaded.worker))
            loaded.worker.wait_until_ready()
            compared = {task: tolerances.get(task, self._tolerance) for task in active.tasks if task in loaded.tasks}
            drifts = task_drifts(loaded.run, loaded.manifest.tasks, loaded.encoder, active.manifest, compared)
        except BaseException:
            loaded.close(self._close_s)
            raise
        load = LoadStatus(
            revision,
            LoadState.LOADED,
            shifts=drifts,
            new_tasks=tuple(task for task in loaded.tasks if task not in active.tasks),
            gone_tasks=tuple(task for task in active.tasks if task not in loaded.tasks),
        )
        refused = [
            f"{task} by {drift.moved:.3g}, over {drift.tolerance:g}" for task, drift in drifts.items() if drift.refused
        ]
        if not refused:
            return load, loaded
        loaded.close(self._close_s)
        detail = f"golden answers of {active.revision} have moved too far: {'; '.join(refused)}"
        return replace(load, state=LoadState.REFUSED, detail=detail), None

    def _worker_ended(self, worker: Worker) -> None:
        # A version that is not active may fail without an effect on the service.
        if worker is self.active.worker:
            self._on_exit(worker.failure)

    def _loading_done(self, load: LoadStatus, loaded: LoadedVersion | None) -> None:
        self.load, self.standby, self._load_thread = load, loaded, None
        self._can_roll_back = False
        self._metrics.reloads.labels(load.state.value).inc()
        logger.info("%s is %s%s", load.model, load.state, f": {load.detail}" if load.detail else "")


def _trim_heap() -> None:
    """Returns free memory to the system. glibc keeps memory that one thread allocated and another one freed."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # other C libraries lack it
        trim(0)
