"""A batch as one run of numbers, padded to a shape, so that a single copy takes it to a device."""

from __future__ import annotations

import torch
from torch import Tensor

from polytask.model.batch import Batch


def packed_size(num_rows: int, length: int) -> int:
    """How many numbers a batch of that shape is."""
    return 2 * num_rows * length + 2 * num_rows


def packed(batch: Batch, num_rows: int, length: int, *, pinned: bool = False) -> Tensor:
    """A batch on the CPU as int64 [packed_size], padded to `num_rows` rows of `length` tokens; no less than it has.

    Rows that are added have one token, not none: attention over nothing at all is no number. `pinned`: in memory that a
    device copies from by itself.
    """
    numbers = torch.zeros(packed_size(num_rows, length), dtype=torch.int64, pin_memory=pinned)
    room, (own_rows, own_length) = unpacked(numbers, num_rows, length, token_level=False), batch.input_ids.shape
    room.input_ids[:own_rows, :own_length] = batch.input_ids
    room.segment_ids[:own_rows, :own_length] = batch.segment_ids
    room.lengths[:own_rows] = batch.lengths
    room.lengths[own_rows:] = 1
    room.task_ids[:own_rows] = batch.task_ids
    return numbers


def unpacked(numbers: Tensor, num_rows: int, length: int, *, token_level: bool) -> Batch:
    """The batch in the first of the numbers, wherever they lie, as views."""
    tokens = num_rows * length
    return Batch(
        numbers[:tokens].view(num_rows, length),
        numbers[tokens : 2 * tokens].view(num_rows, length),
        numbers[2 * tokens : 2 * tokens + num_rows],
        numbers[2 * tokens + num_rows : packed_size(num_rows, length)],
        token_level,
    )
