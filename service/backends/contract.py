"""What runs a batch on a device. The contract is small, so that other engines fit behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from polytask.model.batch import Batch
from polytask.model.heads import Outputs


class DeviceLost(Exception):
    """The device will not run anything again in this process, whatever is tried."""


class Backend(Protocol):
    """An engine with a network loaded. `streams` threads call it."""

    @property
    def name(self) -> str:
        """The engine, such as `torch`."""

    @property
    def device(self) -> str:
        """Where it runs: `cpu` or `cuda`."""

    @property
    def precision(self) -> str:
        """The type that it computes in, such as `float32`."""

    @property
    def num_streams(self) -> int:
        """How many threads may run a batch each at the same time."""

    @property
    def is_async(self) -> bool:
        """Whether a started batch runs by itself, so that it pays to start the next one before asking for its outputs."""

    def run(self, batch: Batch) -> Outputs:
        """Logits on the CPU in float32. Raises MemoryError, or DeviceLost where another try would be in vain."""

    def start(self, batch: Batch) -> Callable[[], Outputs]:
        """Begins a batch. What it returns waits for the outputs of `run`; both may raise what `run` raises.

        Batches run in the order in which they are started. Where nothing overlaps nothing runs before the call.
        """
