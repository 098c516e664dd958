"""Encodings to tensors. Rows keep the order they come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polytask.model.encoding import Encoding


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows for one forward; they may belong to any mix of tasks.

    `input_ids`, `segment_ids`: [B, L] int64, zero-padded on the right. `lengths`, `task_ids`: [B] int64.
    `token_level`: whether a row belongs to a task with outputs for every token.
    """

    input_ids: Tensor
    segment_ids: Tensor
    lengths: Tensor
    task_ids: Tensor
    token_level: bool

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return Batch(
            self.input_ids.to(device),
            self.segment_ids.to(device),
            self.lengths.to(device),
            self.task_ids.to(device),
            self.token_level,
        )


def collate(encodings: Sequence[Encoding], task_ids: Sequence[int], *, token_level: bool, pad_id: int = 0) -> Batch:
    """Pads the encodings to the longest of them. Raises ValueError when there are none, or other than task ids."""
    if not encodings:
        raise ValueError("a batch needs at least one row")
    if len(task_ids) != len(encodings):
        raise ValueError(f"{len(encodings)} rows but {len(task_ids)} task ids")
    lengths = [len(encoding) for encoding in encodings]
    # Filled in numpy: a tensor of a row's own costs ten times as much.
    input_ids = np.full((len(encodings), max(lengths)), pad_id)
    segment_ids = np.zeros_like(input_ids)
    for row, encoding in enumerate(encodings):
        input_ids[row, : len(encoding)] = encoding.input_ids
        segment_ids[row, : len(encoding)] = encoding.segment_ids
    return Batch(
        torch.from_numpy(input_ids),
        torch.from_numpy(segment_ids),
        torch.tensor(lengths),
        torch.tensor(task_ids),
        token_level,
    )
