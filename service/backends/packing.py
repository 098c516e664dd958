"""Packing: a padded batch as one tensor of numbers, so that a single copy takes it to a device."""

from __future__ import annotations

import torch
from torch import Tensor

from polytask.model.batch import Batch


def packed_size(num_rows: int, length: int) -> int:
    """Number of int64 values of a batch of that shape."""
    return 2 * num_rows * length + 2 * num_rows


def pack(batch: Batch, num_rows: int, length: int, *, pinned: bool = False) -> Tensor:
    """A batch on the CPU as int64 [packed_size], padded to `num_rows` rows of `length` tokens, at least those it has.

    Added rows have one token: attention over no tokens is NaN. `pinned`: in memory from which a device copies
    asynchronously.
    """
    numbers = torch.zeros(packed_size(num_rows, length), dtype=torch.int64, pin_memory=pinned)
    target, (batch_rows, batch_length) = unpack(numbers, num_rows, length, token_level=False), batch.input_ids.shape
    target.input_ids[:batch_rows, :batch_length] = batch.input_ids
    target.segment_ids[:batch_rows, :batch_length] = batch.segment_ids
    target.lengths[:batch_rows] = batch.lengths
    target.lengths[batch_rows:] = 1
    target.task_ids[:batch_rows] = batch.task_ids
    return numbers


def unpack(numbers: Tensor, num_rows: int, length: int, *, token_level: bool) -> Batch:
    """The packed batch as views of `numbers`, on any device."""
    tokens = num_rows * length
    return Batch(
        numbers[:tokens].view(num_rows, length),
        numbers[tokens : 2 * tokens].view(num_rows, length),
        numbers[2 * tokens : 2 * tokens + num_rows],
        numbers[2 * tokens + num_rows : packed_size(num_rows, length)],
        token_level,
    )
