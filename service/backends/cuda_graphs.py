"""CUDA graphs: a forward of one shape, recorded once and replayed by one call instead of hundreds of launches.

A graph reads and writes the same memory at every replay. All graphs of a runner read one buffer, and they share the
memory of what is in between, so only one may run at a time: inputs, replay and the copy of the outputs are queued on
one stream, whose order keeps each batch from the next one's, also where that is queued before anybody has waited.

A graph is kept where it gives what the forward gives, and in less time than the forward takes for the smallest batch that
would go to its bucket. What cannot be recorded is run without a graph: that is a warning, nothing more.
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
from polytask.service.backends.packing import packed_size, unpacked
from polytask.service.backends.shape_buckets import Bucket, Buckets, aligned

Forward = Callable[[Batch], Outputs]
Replay = Callable[[], Outputs]
"""Runs a recorded forward on what its inputs hold now. The outputs are the same tensors each time."""

_REPEATS = 3
_SHARE_OF_MEMORY = 0.25
_FAR, _FAR_OF_LARGE = 0.05, 0.02
"""What a replayed logit may differ by, and as a share of a large one: in bfloat16 another kernel may have been chosen, but nothing may be wrong."""

logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """What records forwards on a device."""

    def record(self, run: Callable[[], Outputs]) -> Replay:
        """A replay of `run`, which has run before on the same tensors. Raises where it cannot be recorded."""

    def seconds(self, run: Callable[[], object]) -> float:
        """From the call until the device is done, the least of a few times."""

    def free_bytes(self) -> int:
        """Memory of the device that nobody has taken."""


class Graphs:
    """The recorded forwards of a network, a bucket each. One thread at a time may use them."""

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
        """Records them. `sample`: a packed batch of so many rows and tokens, of random ids, on the CPU.

        `token_level`: whether the forwards have token outputs. Those cost little beside the rest, so that there is no
        second set of graphs without.
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
        """The bucket of a batch of that shape, where it has a graph."""
        bucket = self._buckets.of(num_rows, length)
        return bucket if bucket in self._replays else None

    def run(self, bucket: Bucket, numbers: Tensor) -> Outputs:
        """Queues the batch that was packed for the bucket. The next run on the stream writes over these outputs."""
        self._inputs[: len(numbers)].copy_(numbers, non_blocking=True)
        return self._replays[bucket]()

    def _record_all(self, free: int) -> dict[Bucket, Replay]:
        recorded: dict[Bucket, Replay] = {}
        worthwhile = set[Bucket]()
        # The largest first, as the others then find room in its memory; after it the small ones, which gain most.
        order = [*self._buckets.all[-1:], *self._buckets.all[:-1]]
        for bucket in order:
            if free - self._recorder.free_bytes() > _SHARE_OF_MEMORY * free:
                logger.warning("CUDA graphs of %d tokens and more would take too much memory", bucket.num_tokens)
                break
            try:
                recorded[bucket], pays = self._record(bucket)
            except Exception:  # whatever it is, there is a way without
                logger.warning(
                    "a forward of %d rows of %d tokens cannot be recorded; no more CUDA graphs", *bucket, exc_info=True
                )
                break
            if pays:
                worthwhile.add(bucket)
        # Only now: while there is a graph, there is the memory that the next one shares.
        return {bucket: replay for bucket, replay in recorded.items() if bucket in worthwhile}

    def _record(self, bucket: Bucket) -> tuple[Replay, bool]:
        """The replay of that bucket, and whether it is right and pays."""
        numbers = self._inputs[: packed_size(*bucket)]
        numbers.copy_(self._sample(*bucket))
        run = partial(self._forward, unpacked(numbers, *bucket, token_level=self._token_level))
        expected = run()
        replay = self._recorder.record(run)
        if not _agree(replay(), expected):
            logger.warning("a replayed forward of %d rows of %d tokens is wrong, and not used", *bucket)
            return replay, False
        num_rows, length = self._buckets.least(bucket)
        least = num_rows, aligned(length, bucket.length)
        smallest = unpacked(self._sample(*least).to(numbers.device), *least, token_level=self._token_level)
        without = self._recorder.seconds(partial(self._forward, smallest))
        return replay, self._recorder.seconds(replay) < without


class CudaRecorder:
    """Records on a CUDA device. All graphs of a recorder share the memory of what they compute.

    The stream that they are recorded on never runs anything: they are replayed on that of whoever asks.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, run: Callable[[], Outputs]) -> Replay:
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            # Of this thread alone: batches of another version may be under way in another one.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                outputs = run()
        except Exception:
            self._end_allocating()
            raise
        finally:
            # A recording that fails leaves its stream in place.
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
        """Tells torch's allocator that a recording which has failed is over.

        CUDAGraph says so only after one that CUDA has ended well. Until then no memory is given back: `empty_cache`
        raises, at the next batch that does not fit as at the next recording.
        """
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        # Where it has been told before there is nothing to release either: the graph does that. There is no public way.
        with contextlib.suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(index, self._pool)  # noqa: SLF001
            torch._C._cuda_releasePool(index, self._pool)  # noqa: SLF001


def _agree(found: Outputs, expected: Outputs) -> bool:
    pairs = [(found.sentence, expected.sentence)]
    if found.token is not None and expected.token is not None:
        pairs.append((found.token, expected.token))
    return all(torch.allclose(one, other, rtol=_FAR_OF_LARGE, atol=_FAR) for one, other in pairs)
