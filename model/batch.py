"""Encodings to tensors. Rows keep the order they come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.encoding import Encoding


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
    """Pads the encodings to the longest of them. Raises ValueError when there are none."""
    if not encodings:
        raise ValueError("a batch needs at least one row")
    lengths = torch.tensor([len(encoding) for encoding in encodings])
    shape = (len(encodings), int(lengths.max()))
    input_ids = torch.full(shape, pad_id)
    segment_ids = torch.zeros(shape, dtype=torch.int64)
    for row, encoding in enumerate(encodings):
        input_ids[row, : len(encoding)] = torch.tensor(encoding.input_ids)
        segment_ids[row, : len(encoding)] = torch.tensor(encoding.segment_ids)
    return Batch(input_ids, segment_ids, lengths, torch.tensor(task_ids), token_level)
