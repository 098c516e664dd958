"""Backend contract: what the engine needs from an inference library. It is small, so that others can be added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from polytask.model.batch import Batch
from polytask.model.heads import Outputs


class DeviceLost(Exception):
    """The device is lost for this process; another try would fail as well."""


class Backend(Protocol):
    """An inference library with a network loaded. `num_streams` threads call it."""

    @property
    def name(self) -> str:
        """The inference library, such as `torch`."""

    @property
    def device(self) -> str:
        """The device: `cpu` or `cuda`."""

    @property
    def precision(self) -> str:
        """The type of its computations, such as `float32`."""

    @property
    def num_streams(self) -> int:
        """Number of threads that may run a batch each at the same time."""

    @property
    def is_async(self) -> bool:
        """Whether a started batch runs by itself, so that the next one should be started before its outputs are awaited."""

    def run(self, batch: Batch) -> Outputs:
        """Logits on the CPU in float32. Raises MemoryError, or DeviceLost if no further batch can run."""

    def start(self, batch: Batch) -> Callable[[], Outputs]:
        """Starts a batch. The returned function waits for its outputs; both may raise the errors of `run`.

        Batches run in the order in which they are started; without `is_async`, only when their outputs are awaited.
        """
