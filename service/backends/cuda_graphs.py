"""CUDA graphs: a forward of one shape, recorded once and replayed by one call instead of hundreds of launches.

A graph reads and writes the same memory at every replay. All graphs of a backend read one input buffer and share the
memory of intermediate results, so only one may run at a time: inputs, replay and the copy of the outputs are queued on
one stream, whose order separates the batches, also if the next one is queued before the last one was awaited.

A graph is kept if its outputs agree with those of the forward, and if it takes less time than the forward of the smallest
batch of its bucket. A shape that cannot be recorded runs without a graph, with a warning.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from polytask.model.batch import Batch
from polytask.model.heads import Outputs
from polytask.service.backends.packing import packed_size, unpack
from polytask.service.backends.shape_buckets import Bucket, Buckets, aligned

Forward = Callable[[Batch], Outputs]
Replay = Callable[[], Outputs]
"""Runs a recorded forward on the present contents of its inputs. The outputs are the same tensors each time."""

_REPEATS = 3
_MEMORY_SHARE = 0.25
"""The share of the free memory that all graphs may take."""
_ABSOLUTE_TOLERANCE, _RELATIVE_TOLERANCE = 0.05, 0.02
"""How far a replayed logit may be off: in bfloat16, as the recording may have chosen another kernel."""

logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """Records forwards on a device."""

    def record(self, run: Callable[[], Outputs]) -> Replay:
        """A replay of `run`, which has run before on the same tensors. Raises if it cannot be recorded."""

    def seconds(self, run: Callable[[], object]) -> float:
        """The shortest of a few times from the call until the device is done."""

    def free_bytes(self) -> int:
        """Free memory of the device."""


class Graphs:
    """The recorded forwards of a network, one for each bucket. One thread at a time may use them."""

    def __init__(
        self,
        forward: Forward,
        sample: Callable[[int, int], Tensor],
        buckets: Buckets,
        recorder: Recorder,
        device: torch.device,
        *,
        token_level: bool,
    ) -> None:
        """Records them. `sample`: number of rows and length to a packed batch of random ids on the CPU.

        `token_level`: whether the forwards have token outputs. Those cost little, so there is no second set of graphs
        without them.
        """
        self._forward = forward
        self._sample = sample
        self._buckets = buckets
        self._recorder = recorder
        self._token_level = token_level
        self._inputs = torch.zeros(
            max((packed_size(*bucket) for bucket in buckets.all), default=0), dtype=torch.int64, device=device
        )
        started, free = time.monotonic(), recorder.free_bytes()
        self._replays = self._record_all(free)
        logger.info(
            "%d of %d CUDA graphs are kept; %.0f MB and %.1f s",
            len(self._replays),
            len(buckets.all),
            max(0, free - recorder.free_bytes()) / 1e6,
            time.monotonic() - started,
        )

    def bucket(self, num_rows: int, length: int) -> Bucket | None:
        """The bucket of a batch of that shape, if it has a graph."""
        bucket = self._buckets.fitting(num_rows, length)
        return bucket if bucket in self._replays else None

    def run(self, bucket: Bucket, numbers: Tensor) -> Outputs:
        """Queues a batch that was packed for the bucket. The next run overwrites the outputs."""
        self._inputs[: len(numbers)].copy_(numbers, non_blocking=True)
        return self._replays[bucket]()

    def _record_all(self, free: int) -> dict[Bucket, Replay]:
        recorded: dict[Bucket, Replay] = {}
        worthwhile = set[Bucket]()
        # The largest first, so that the others fit into its memory; then from small to large, as small ones gain most.
        order = [*self._buckets.all[-1:], *self._buckets.all[:-1]]
        for bucket in order:
            if free - self._recorder.free_bytes() > _MEMORY_SHARE * free:
                logger.warning("CUDA graphs of %d tokens and more would take too much memory", bucket.num_tokens)
                break
            try:
                recorded[bucket], is_worthwhile = self._record(bucket)
            except Exception:  # any error: the forward runs without a graph
                logger.warning(
                    "a forward of %d rows of %d tokens cannot be recorded; no more CUDA graphs", *bucket, exc_info=True
                )
                break
            if is_worthwhile:
                worthwhile.add(bucket)
        # Only now: the memory that the graphs share lives as long as one of them.
        return {bucket: replay for bucket, replay in recorded.items() if bucket in worthwhile}

    def _record(self, bucket: Bucket) -> tuple[Replay, bool]:
        """The replay for the bucket, and whether it is correct and saves time."""
        numbers = self._inputs[: packed_size(*bucket)]
        numbers.copy_(self._sample(*bucket))
        run = partial(self._forward, unpack(numbers, *bucket, token_level=self._token_level))
        expected = run()
        replay = self._recorder.record(run)
        if not _agree(replay(), expected):
            logger.warning("a replayed forward of %d rows of %d tokens is wrong, and not used", *bucket)
            return replay, False
        num_rows, length = self._buckets.smallest_batch(bucket)
        shape = num_rows, aligned(length, bucket.length)
        smallest = unpack(self._sample(*shape).to(numbers.device), *shape, token_level=self._token_level)
        without_graph_s = self._recorder.seconds(partial(self._forward, smallest))
        return replay, self._recorder.seconds(replay) < without_graph_s


class CudaRecorder:
    """Records on a CUDA device. All graphs of a recorder share the memory of intermediate results.

    The stream of the recording never runs anything: graphs are replayed on the caller's stream.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, run: Callable[[], Outputs]) -> Replay:
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            # Of this thread alone: another thread may be running batches of another version.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                outputs = run()
        except Exception:
            self._end_allocating()
            raise
        finally:
            # A failed recording leaves its own stream current.
            torch.cuda.set_stream(before)

        def replay() -> Outputs:
            graph.replay()
            return outputs

        return replay

    def seconds(self, run: Callable[[], object]) -> float:
        times = []
        for _ in range(_REPEATS):
            torch.cuda.synchronize(self._device)
            started = time.perf_counter()
            run()
            torch.cuda.synchronize(self._device)
            times.append(time.perf_counter() - started)
        return min(times)

    def free_bytes(self) -> int:
        return torch.cuda.mem_get_info(self._device)[0]

    def _end_allocating(self) -> None:
        """Tells torch's allocator that a failed recording is over.

        CUDAGraph does so only after a successful one. Until then no memory is freed: `empty_cache` raises, at the next
        batch that does not fit and at the next recording.
        """
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        # RuntimeError: CUDAGraph has done it already. There is no public way.
        with contextlib.suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(index, self._pool)  # noqa: SLF001
            torch._C._cuda_releasePool(index, self._pool)  # noqa: SLF001


def _agree(replayed: Outputs, expected: Outputs) -> bool:
    pairs = [(replayed.sentence, expected.sentence)]
    if replayed.token is not None and expected.token is not None:
        pairs.append((replayed.token, expected.token))
    return all(
        torch.allclose(actual, wanted, rtol=_RELATIVE_TOLERANCE, atol=_ABSOLUTE_TOLERANCE) for actual, wanted in pairs
    )
