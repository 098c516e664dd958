"""CUDA graphs and asynchronous copies on a real device. Run by `make gpu`."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from polytask.model.batch import Batch
from polytask.model.heads import Outputs
from polytask.service.backends.cuda import CudaBackend
from polytask.service.backends.cuda_graphs import CudaRecorder
from polytask.service.backends.shape_buckets import Buckets
from tests.support import exported, tiny

pytestmark = pytest.mark.gpu

BOUND = 0.05
"""Logits of the tiny network in bfloat16, by other kernels for another shape; they lie within about ±5."""

MOST_BYTES = 2**31
"""Bytes that the graphs of a small network may take: mostly the driver's, some megabytes each."""

LEFT_BYTES = 2**28
"""Free bytes that are left on the device for a batch that does not fit."""

LOST = """
import os
import torch
from dataclasses import replace
from polytask.service.backends.cuda import CudaBackend
from polytask.service.backends.contract import DeviceLost
from tests import exported, tiny

runner = CudaBackend(tiny.network(), torch.device("cuda"))
batch = exported.batch([5])
try:
    runner.run(replace(batch, input_ids=batch.input_ids + 10**6))
except DeviceLost:
    os._exit(7)
"""


def cuda(*, graphs: bool) -> CudaBackend:
    """The tiny network, with the worthwhile graphs of up to 16 rows, or without graphs."""
    buckets = Buckets.up_to(tiny.config().max_length, 16) if graphs else None
    return CudaBackend(tiny.network(), torch.device("cuda"), buckets)


def assert_near(found: Outputs, expected: Outputs, batch: Batch) -> None:
    """All logits of the batch's rows and real tokens are within the bound."""
    torch.testing.assert_close(found.sentence, expected.sentence, atol=BOUND, rtol=0)
    assert (found.token is None) == (expected.token is None)
    if found.token is not None and expected.token is not None:
        for row, length in enumerate(batch.lengths.tolist()):
            torch.testing.assert_close(found.token[row, :length], expected.token[row, :length], atol=BOUND, rtol=0)


@contextmanager
def nobody_waits() -> Iterator[None]:
    """Inside the block an operation that makes the host wait for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def batches() -> list[Batch]:
    """Small and large batches in turn, with and without token-level rows."""
    lengths = ([5], [64] * 16, [9, 3], [17] * 7, [2], [33, 64, 12], [64] * 15, [8] * 16)
    return [replace(exported.batch(one, seed=seed), token_level=bool(seed % 2)) for seed, one in enumerate(lengths)]


def test_replays_give_what_the_network_gives() -> None:
    """Batches that are all started before the first is awaited have the same logits as one by one without graphs."""
    backend, plain = cuda(graphs=True), cuda(graphs=False)
    started = [backend.start(batch) for batch in batches()]
    for batch, outputs in zip(batches(), started, strict=True):
        assert_near(outputs(), plain.run(batch), batch)


def test_single_rows_are_replayed() -> None:
    """Single rows, whose time is that of kernel launches, are replayed on every device."""
    graphs = cuda(graphs=True)._graphs
    assert graphs is not None
    assert graphs.bucket(1, 16) is not None


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # it does not find everything
@pytest.mark.parametrize("graphs", [True, False])
def test_a_start_waits_for_nothing(*, graphs: bool) -> None:
    """Neither copies nor kernels of a batch make the host wait, replayed or not."""
    backend = cuda(graphs=graphs)
    for batch in batches():
        backend.run(batch)
    with nobody_waits():
        started = [backend.start(batch) for batch in batches()]
    for outputs in started:
        outputs()


def test_graphs_take_little_memory() -> None:
    """All graphs of a backend share the memory of intermediate results, so together they take less than the stated bytes."""
    cuda(graphs=True)  # what torch and its libraries take once
    torch.cuda.synchronize()
    before, _ = torch.cuda.mem_get_info()
    backend = cuda(graphs=True)
    torch.cuda.synchronize()
    after, _ = torch.cuda.mem_get_info()
    assert before - after < MOST_BYTES
    assert backend._graphs is not None


@pytest.mark.filterwarnings("ignore")  # of torch, about the recording that failed
def test_what_cannot_be_recorded_leaves_the_device_as_it_was() -> None:
    """Recording a forward that reads a value from the device fails, restores stream and memory, and another recording succeeds."""
    recorder, values = CudaRecorder(torch.device("cuda")), torch.ones(4, device="cuda")

    def asks() -> Outputs:
        return Outputs(values * float(values.sum()), None)

    def asks_nothing() -> Outputs:
        return Outputs(values * 2, None)

    before = torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        recorder.record(asks)
    assert torch.cuda.current_stream() == before
    torch.cuda.empty_cache()
    assert asks().sentence.tolist() == [4] * 4
    replay = CudaRecorder(torch.device("cuda")).record(asks_nothing)
    values.fill_(3)
    assert replay().sentence.tolist() == [6] * 4


def test_a_version_is_recorded_beside_one_that_answers() -> None:
    """A recording and batches of another thread do not disturb each other."""
    first, plain, batch = cuda(graphs=True), cuda(graphs=False), exported.batch([9, 3])
    expected, over, found = plain.run(batch), threading.Event(), list[Outputs]()

    def answer() -> None:
        while not over.is_set():
            found.append(first.run(batch))

    answering = threading.Thread(target=answer)
    answering.start()
    try:
        second = cuda(graphs=True)
    finally:
        over.set()
        answering.join()
    for outputs in (*found, second.run(batch)):
        assert_near(outputs, expected, batch)
    assert second._graphs is not None
    assert second._graphs.bucket(1, 16) is not None


def test_a_batch_that_does_not_fit_is_a_memory_error() -> None:
    """A batch that does not fit raises MemoryError, with and without graphs, and the next batch has the same logits as before."""
    backend, batch = cuda(graphs=True), exported.batch([9, 3])
    before = backend.run(batch)
    taken = torch.empty(torch.cuda.mem_get_info()[0] - LEFT_BYTES, dtype=torch.uint8, device="cuda")
    with pytest.raises(MemoryError):
        backend.run(exported.batch([64] * 2**16))
    del taken
    assert_near(backend.run(batch), before, batch)


def test_a_device_that_is_lost_says_so() -> None:
    """A kernel that fails on an invalid token id makes the device unusable for the process: `DeviceLost`."""
    ended = subprocess.run([sys.executable, "-c", LOST], capture_output=True, check=False)
    assert ended.returncode == 7, ended.stderr.decode()
