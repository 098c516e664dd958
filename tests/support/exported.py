"""The tiny network, exported once for all tests in float32 and in 8 bits, and rows to run it on."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import onnx
import torch

from polytask.model.batch import Batch
from polytask.model.encoding import Encoding
from polytask.service.backends.exported import feed
from polytask.training.export.onnx_graph import onnx_graph
from polytask.training.export.quantisation import Target, choose_scales, quantise
from tests.model.support.networks import one_row, random_batch
from tests.support import tiny


@cache
def graph() -> onnx.ModelProto:
    """The graph of `tiny.network()`."""
    return onnx_graph(tiny.network())


@cache
def eight_bits(target: Target) -> onnx.ModelProto:
    """The graph in 8 bits, calibrated on rows of every task and many lengths."""
    num_tasks = len(tiny.tasks())
    rows = [random_batch(tiny.config(), [length], [length % num_tasks], seed=length) for length in range(3, 60)]
    return quantise(graph(), choose_scales(graph(), [feed(one_row(row, 0)) for row in rows]), target=target)


def write(folder: Path, model: onnx.ModelProto) -> Path:
    """The path of a file that holds the graph."""
    path = folder / "graph.onnx"
    onnx.save(model, path)
    return path


def batch(lengths: list[int], seed: int = 0) -> Batch:
    """Rows of random tokens of all tasks in turn."""
    return random_batch(tiny.config(), lengths, [index % len(tiny.tasks()) for index in range(len(lengths))], seed=seed)


def padded(batch: Batch, row: int, length: int) -> Batch:
    """One row of a batch alone, padded to `length`."""
    alone = one_row(batch, row)
    ids = torch.zeros(1, length, dtype=torch.long)
    segments = torch.zeros_like(ids)
    row_length = alone.input_ids.shape[1]
    ids[:, :row_length], segments[:, :row_length] = alone.input_ids, alone.segment_ids
    return Batch(ids, segments, alone.lengths, alone.task_ids, batch.token_level)


def rows() -> tuple[list[int], list[Encoding]]:
    """Task ids and encodings of two rows, one of a sentence-level and one of a token-level task."""
    return [0, 5], [Encoding((2, 7, 3), (0, 0, 0)), Encoding((2, 3), (0, 0))]
