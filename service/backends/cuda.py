"""CUDA: the network in bfloat16, with asynchronous copies, and small batches replayed as CUDA graphs."""

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
from polytask.service.backends.packing import pack, unpack
from polytask.service.backends.shape_buckets import Buckets, aligned


class CudaBackend:
    """Runs batches on a device, one after the other. `start` queues a batch and does not wait for it.

    A batch is sent in one copy, padded to a multiple of 8 tokens, or to its bucket if that has a graph.
    """

    name = "torch"
    num_streams = 1
    is_async = True

    def __init__(
        self,
        network: Network,
        device: torch.device,
        buckets: Buckets | None = None,
        dtype: torch.dtype = torch.bfloat16,
        recorder: Recorder | None = None,
    ) -> None:
        """Moves the network to `device`, and records its forwards for `buckets`. `dtype`: of the encoder."""
        # cuDNN's attention takes up to half a second to plan for every new shape.
        torch.backends.cuda.enable_cudnn_sdp(enabled=False)
        self.device = device.type
        self.precision = str(dtype).removeprefix("torch.")
        self._device = device
        self._network = network
        self._longest = network.config.max_length
        self._token_level = any(task.token_level for task in network.tasks)
        self._tables = JoinedTables(move_to_device(network, device, dtype))
        # One thread runs the batches of a version, but another may check its golden answers.
        self._lock = threading.Lock()
        self._graphs = None if buckets is None else self._record(buckets, recorder or CudaRecorder(device))

    def run(self, batch: Batch) -> Outputs:
        return self.start(batch)()

    def start(self, batch: Batch) -> Callable[[], Outputs]:
        num_rows, length = batch.input_ids.shape
        with _translate_errors(batch), torch.no_grad(), self._lock:
            outputs = self._queue(batch)
            sentence = self._copy_to_cpu(outputs.sentence[:num_rows])
            token = None
            if batch.token_level:
                assert outputs.token is not None, "a token-level row needs a network with token outputs"
                token = self._copy_to_cpu(outputs.token[:num_rows])
            wait_until_done = self._done_event()

        def wait() -> Outputs:
            with _translate_errors(batch):
                wait_until_done()
            return Outputs(sentence, None if token is None else token[:, :length])

        return wait

    def _queue(self, batch: Batch) -> Outputs:
        """Queues the forward. Its outputs may have more rows and tokens than the batch; later batches overwrite them."""
        num_rows, length = batch.input_ids.shape
        bucket = None if self._graphs is None else self._graphs.bucket(num_rows, length)
        if self._graphs is not None and bucket is not None:
            return self._graphs.run(bucket, self._pack(batch, *bucket))
        shape = num_rows, aligned(length, self._longest)
        numbers = self._pack(batch, *shape).to(self._device, non_blocking=True)
        return self._forward(unpack(numbers, *shape, token_level=batch.token_level))

    def _forward(self, batch: Batch) -> Outputs:
        outputs: Outputs = self._network(batch, self._tables)
        return outputs

    def _pack(self, batch: Batch, num_rows: int, length: int) -> Tensor:
        # torch reuses pinned memory only after the queued copies from it are done.
        return pack(batch, num_rows, length, pinned=self._device.type == "cuda")

    def _copy_to_cpu(self, outputs: Tensor) -> Tensor:
        """A copy of the outputs on the CPU, queued after their computation; valid when that is done."""
        pinned = self._device.type == "cuda"
        return torch.empty(outputs.shape, dtype=torch.float32, pin_memory=pinned).copy_(outputs, non_blocking=True)

    def _done_event(self) -> Callable[[], None]:
        """A function that waits for everything queued so far, but not, as a copy would, for batches queued later."""
        if self._device.type != "cuda":
            return lambda: None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event.synchronize

    def _record(self, buckets: Buckets, recorder: Recorder) -> Graphs:
        with torch.no_grad():
            return Graphs(self._forward, self._sample, buckets, recorder, self._device, token_level=self._token_level)

    def _sample(self, num_rows: int, length: int) -> Tensor:
        """A packed batch of random tokens: the first row of full length, the others of any, of all tasks."""
        generator = torch.Generator().manual_seed(num_rows * length)
        shape = (num_rows, length)
        input_ids = torch.randint(self._network.config.vocab_size, shape, generator=generator)
        lengths = torch.randint(1, length + 1, (num_rows,), generator=generator)
        lengths[0] = length
        task_ids = torch.arange(num_rows) % len(self._network.tasks)
        batch = Batch(input_ids, torch.zeros_like(input_ids), lengths, task_ids, self._token_level)
        return self._pack(batch, *shape)


def move_to_device(network: Network, device: torch.device, dtype: torch.dtype) -> Tables:
    """Evaluates the task tables in float32, moves the network to `device`, and converts its encoder and tables to `dtype`.

    Pooling and heads stay in float32: they cost next to nothing, and a logit has more digits than the three of bfloat16.
    Layer norms and attention always sum in float32.
    """
    network.eval().to(device)
    with torch.no_grad():
        tables = network.condition()
    network.encoder.to(dtype)
    matrices = None if tables.matrices is None else tables.matrices.to(dtype)
    return replace(tables.map(lambda table: table.to(dtype)), pooling=tables.pooling, matrices=matrices)


@contextlib.contextmanager
def _translate_errors(batch: Batch) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise MemoryError(f"a batch of {list(batch.input_ids.shape)} tokens does not fit") from error
    except torch.AcceleratorError as error:
        raise DeviceLost(f"cuda failed for good: {error}") from error
