"""What runs a batch on a device. The contract is small, so that other engines fit behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch

from model.answers import Logits
from model.batch import Batch, collate
from model.encoding import Encoding
from model.heads import Outputs, output_slices
from model.network import Network
from model.tasks import Task
from service.errors import StartupError


class DeviceLost(Exception):
    """The device will not run anything again in this process, whatever is tried."""


class Runner(Protocol):
    """An engine with a network loaded. `streams` threads call it."""

    @property
    def backend(self) -> str:
        """The engine, such as `torch`."""

    @property
    def device(self) -> str:
        """Where it runs: `cpu` or `cuda`."""

    @property
    def precision(self) -> str:
        """The type that it computes in, such as `float32`."""

    @property
    def streams(self) -> int:
        """How many threads may run a batch each at the same time."""

    @property
    def overlaps(self) -> bool:
        """Whether a started batch runs by itself, so that it pays to start the next one before asking for its outputs."""

    def run(self, batch: Batch) -> Outputs:
        """Logits on the CPU in float32. Raises MemoryError, or DeviceLost where another try would be in vain."""

    def start(self, batch: Batch) -> Callable[[], Outputs]:
        """Begins a batch. What it returns waits for the outputs of `run`; both may raise what `run` raises.

        Batches run in the order in which they are started. Where nothing overlaps nothing runs before the call.
        """


Run = Callable[[Sequence[int], Sequence[Encoding]], list[Logits]]
"""Task ids and encodings of rows to the rows' own logits, as `Forward` runs them."""


class TorchRunner:
    """The network as it is, on the CPU in float32."""

    backend = "torch"
    device = "cpu"
    precision = "float32"
    streams = 1
    overlaps = False

    def __init__(self, network: Network) -> None:
        """Evaluates its task tables, once."""
        self._network = network.eval()
        with torch.inference_mode():
            self._tables = self._network.condition()

    def run(self, batch: Batch) -> Outputs:
        with torch.inference_mode():
            outputs: Outputs = self._network(batch, self._tables)
        return outputs

    def start(self, batch: Batch) -> Callable[[], Outputs]:
        return partial(self.run, batch)


class Forward:
    """Rows in, each row's own logits out: padded into a batch, run, and cut out of the outputs of all heads."""

    def __init__(self, runner: Runner, tasks: Sequence[Task], pad_id: int) -> None:
        self._runner = runner
        self._token_level = [task.token_level for task in tasks]
        self._slices = output_slices(tasks)
        self._pad_id = pad_id

    @property
    def streams(self) -> int:
        """As of the runner."""
        return self._runner.streams

    @property
    def overlaps(self) -> bool:
        """As of the runner."""
        return self._runner.overlaps

    def __call__(self, task_ids: Sequence[int], encodings: Sequence[Encoding]) -> list[Logits]:
        """Per row, in order: [num_outputs] of its task, or [length, num_outputs] for a token-level task."""
        return self.start(task_ids, encodings)()

    def start(self, task_ids: Sequence[int], encodings: Sequence[Encoding]) -> Callable[[], list[Logits]]:
        """Begins the rows as a batch. What it returns waits for their logits."""
        token_level = any(self._token_level[task_id] for task_id in task_ids)
        batch = collate(encodings, task_ids, token_level=token_level, pad_id=self._pad_id)
        return partial(self._cut_out, self._runner.start(batch), task_ids, encodings)

    def _cut_out(
        self, outputs_of: Callable[[], Outputs], task_ids: Sequence[int], encodings: Sequence[Encoding]
    ) -> list[Logits]:
        outputs = outputs_of()
        sentence = outputs.sentence.numpy()
        token = None if outputs.token is None else outputs.token.numpy()
        logits: list[Logits] = []
        for row, (task_id, encoding) in enumerate(zip(task_ids, encodings, strict=True)):
            columns = self._slices[task_id]
            if self._token_level[task_id]:
                assert token is not None, "a token-level row was run without token logits"
                logits.append(token[row, : len(encoding), columns])
            else:
                logits.append(sentence[row, columns])
        return logits


def pick_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means here. Raises StartupError where there is no such device."""
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise StartupError(
            "POLYTASK_DEVICE is cuda, but torch finds no usable GPU; set it to auto or cpu, or install a CUDA build"
        )
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")
