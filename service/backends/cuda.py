"""The network on CUDA: bfloat16 weights, copies that nobody waits for, and small batches replayed as CUDA graphs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from polytask.model.batch import Batch
from polytask.model.encoder import JoinedTables, Tables
from polytask.model.heads import Outputs
from polytask.model.network import Network
from polytask.service.backends.contract import DeviceLost
from polytask.service.backends.cuda_graphs import CudaRecorder, Graphs, Recorder
from polytask.service.backends.packing import packed, unpacked
from polytask.service.backends.shape_buckets import Buckets, aligned


class CudaBackend:
    """Runs batches on a device of its own, one after the other. `start` queues one and does not wait for it.

    A batch goes over in one copy, padded to a multiple of 8 tokens, or to its bucket where that has a graph.
    """

    name = "torch"
    num_streams = 1
    is_async = True

    def __init__(
        self,
        network: Network,
        device: torch.device,
        buckets: Buckets | None = None,
        kind: torch.dtype = torch.bfloat16,
        recorder: Recorder | None = None,
    ) -> None:
        """Moves the network to `device`, and records its forwards in `buckets`. `kind`: what its encoder computes in."""
        # cuDNN's attention takes up to half a second for a plan of every new shape.
        torch.backends.cuda.enable_cudnn_sdp(enabled=False)
        self.device = device.type
        self.precision = str(kind).removeprefix("torch.")
        self._device = device
        self._network = network
        self._longest = network.config.max_length
        self._token_level = any(task.token_level for task in network.tasks)
        self._tables = JoinedTables(lowered(network, device, kind))
        # One stream serves one version, but golden answers may be asked for from another thread.
        self._lock = threading.Lock()
        self._graphs = None if buckets is None else self._recorded(buckets, recorder or CudaRecorder(device))

    def run(self, batch: Batch) -> Outputs:
        return self.start(batch)()

    def start(self, batch: Batch) -> Callable[[], Outputs]:
        num_rows, length = batch.input_ids.shape
        with _failures_named(batch), torch.no_grad(), self._lock:
            found = self._queue(batch)
            sentence = self._fetched(found.sentence[:num_rows])
            token = None
            if batch.token_level:
                assert found.token is not None, "a token-level row needs a network with token outputs"
                token = self._fetched(found.token[:num_rows])
            done = self._when_done()

        def wait() -> Outputs:
            with _failures_named(batch):
                done()
            return Outputs(sentence, None if token is None else token[:, :length])

        return wait

    def _queue(self, batch: Batch) -> Outputs:
        """Queues the forward. Its outputs may have more rows and tokens than the batch, and are soon written over."""
        num_rows, length = batch.input_ids.shape
        bucket = None if self._graphs is None else self._graphs.bucket(num_rows, length)
        if self._graphs is not None and bucket is not None:
            return self._graphs.run(bucket, self._packed(batch, *bucket))
        shape = num_rows, aligned(length, self._longest)
        numbers = self._packed(batch, *shape).to(self._device, non_blocking=True)
        return self._forward(unpacked(numbers, *shape, token_level=batch.token_level))

    def _forward(self, batch: Batch) -> Outputs:
        outputs: Outputs = self._network(batch, self._tables)
        return outputs

    def _packed(self, batch: Batch, num_rows: int, length: int) -> Tensor:
        # Torch hands pinned memory out again only when what was queued to copy from it is done.
        return packed(batch, num_rows, length, pinned=self._device.type == "cuda")

    def _fetched(self, outputs: Tensor) -> Tensor:
        """A copy of the outputs on the CPU, queued behind what computes them. It is there when that is done."""
        pinned = self._device.type == "cuda"
        return torch.empty(outputs.shape, dtype=torch.float32, pin_memory=pinned).copy_(outputs, non_blocking=True)

    def _when_done(self) -> Callable[[], None]:
        """What waits for all that is queued so far, and not, as the copy would, for what is queued in the meantime."""
        if self._device.type != "cuda":
            return lambda: None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event.synchronize

    def _recorded(self, buckets: Buckets, recorder: Recorder) -> Graphs:
        with torch.no_grad():
            return Graphs(self._forward, self._sample, buckets, recorder, self._device, token_level=self._token_level)

    def _sample(self, num_rows: int, length: int) -> Tensor:
        """A batch of random tokens, packed: rows of any length, the first of all of it, and of all tasks."""
        drawn = torch.Generator().manual_seed(num_rows * length)
        shape = (num_rows, length)
        input_ids = torch.randint(self._network.config.vocab_size, shape, generator=drawn)
        lengths = torch.randint(1, length + 1, (num_rows,), generator=drawn)
        lengths[0] = length
        task_ids = torch.arange(num_rows) % len(self._network.tasks)
        batch = Batch(input_ids, torch.zeros_like(input_ids), lengths, task_ids, self._token_level)
        return self._packed(batch, *shape)


def lowered(network: Network, device: torch.device, kind: torch.dtype) -> Tables:
    """Moves a network to `device`, its encoder to `kind`, and evaluates its task tables, before that and in float32.

    What follows the encoder, pooling and heads, stays in float32: it costs next to nothing, and a logit has more digits
    than the three of bfloat16. Layer norms and attention sum in float32 whatever they read.
    """
    network.eval().to(device)
    with torch.no_grad():
        tables = network.condition()
    network.encoder.to(kind)
    matrices = None if tables.matrices is None else tables.matrices.to(kind)
    return replace(tables.map(lambda table: table.to(kind)), pooling=tables.pooling, matrices=matrices)


@contextlib.contextmanager
def _failures_named(batch: Batch) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise MemoryError(f"a batch of {list(batch.input_ids.shape)} tokens does not fit") from error
    except torch.AcceleratorError as error:
        raise DeviceLost(f"cuda failed for good: {error}") from error
