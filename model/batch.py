"""Batches: encodings as padded tensors, rows in the given order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polytask.model.encoding import Encoding


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows for one forward, of any mix of tasks.

    `input_ids`, `segment_ids`: [B, L] int64, zero-padded on the right. `lengths`, `task_ids`: [B] int64.
    `token_level`: whether any row belongs to a token-level task.
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

    def rows(self, start: int, stop: int) -> Batch:
        """The rows `start` to before `stop`."""
        part = slice(start, stop)
        return Batch(
            self.input_ids[part], self.segment_ids[part], self.lengths[part], self.task_ids[part], self.token_level
        )


def collate(encodings: Sequence[Encoding], task_ids: Sequence[int], *, token_level: bool, pad_id: int = 0) -> Batch:
    """Pads the encodings to the longest one. Raises ValueError if there are none, or not one task id for each."""
    if not encodings:
        raise ValueError("a batch needs at least one row")
    if len(task_ids) != len(encodings):
        raise ValueError(f"{len(encodings)} rows but {len(task_ids)} task ids")
    lengths = [len(encoding) for encoding in encodings]
    # Filled in numpy: making a tensor of each row costs ten times as much.
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
