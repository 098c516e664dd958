"""Backends that wait or fail when a test wants it, and run the real backend otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from polytask.model.batch import Batch
from polytask.model.heads import Outputs
from polytask.service.backends.contract import Backend
from polytask.service.backends.torch_cpu import TorchBackend
from tests.support import tiny

_PATIENCE_S = 30


def real_backend() -> TorchBackend:
    """The tiny network on the CPU."""
    return TorchBackend(tiny.network())


class _Double:
    """Keeps its batches and runs them."""

    name = "double"
    device = "cpu"
    precision = "float32"

    def __init__(self, inner: Backend | None = None, *, is_async: bool = False, num_streams: int = 1) -> None:
        self.batches: list[Batch] = []
        self.is_async = is_async
        self.num_streams = num_streams
        self._inner = inner or real_backend()

    def start(self, batch: Batch) -> Callable[[], Outputs]:
        return partial(self.run, batch)

    def run(self, batch: Batch) -> Outputs:
        self.batches.append(batch)
        return self._inner.run(batch)


class GatedBackend(_Double):
    """While the gate is shut, batches wait there. The gate is open at first.

    With `is_async` a batch arrives when it is started.
    """

    def __init__(self, inner: Backend | None = None, *, is_async: bool = False, num_streams: int = 1) -> None:
        super().__init__(inner, is_async=is_async, num_streams=num_streams)
        self._gate = threading.Event()
        self._gate.set()

    def shut(self) -> None:
        """Batches wait from now on."""
        self._gate.clear()

    def open(self) -> None:
        """Lets all batches through."""
        self._gate.set()

    def start(self, batch: Batch) -> Callable[[], Outputs]:
        if not self.is_async:
            return super().start(batch)
        self.batches.append(batch)
        outputs = self._inner.start(batch)

        def after_the_gate() -> Outputs:
            self._pass_gate()
            return outputs()

        return after_the_gate

    def run(self, batch: Batch) -> Outputs:
        outputs = super().run(batch)
        self._pass_gate()
        return outputs

    def _pass_gate(self) -> None:
        if not self._gate.wait(_PATIENCE_S):
            raise AssertionError("the test forgot to open the gate")


class FailingBackend(_Double):
    """Raises `error` for every batch for which `fails` says so."""

    def __init__(
        self,
        fails: Callable[[Batch], bool],
        error: Exception | None = None,
        inner: Backend | None = None,
        *,
        is_async: bool = False,
        num_streams: int = 1,
    ) -> None:
        super().__init__(inner, is_async=is_async, num_streams=num_streams)
        self.fails = fails
        self._error = error or RuntimeError("the device does not like this batch")

    def run(self, batch: Batch) -> Outputs:
        outputs = super().run(batch)
        if self.fails(batch):
            raise self._error
        return outputs
