"""Heads and pooling: one matrix for all sentence-level tasks and one for all token-level tasks; a task owns a slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from polytask.model.kernels import Dropout
from polytask.model.tasks import Task


@dataclass(frozen=True, slots=True)
class Outputs:
    """Logits of a batch. `sentence`: [B, S]. `token`: [B, L, K], or None if no row needs token logits."""

    sentence: Tensor
    token: Tensor | None

    def to_cpu(self) -> Outputs:
        """The same outputs on the CPU in float32."""
        token = None if self.token is None else self.token.float().cpu()
        return Outputs(self.sentence.float().cpu(), token)


def output_slices(tasks: Sequence[Task]) -> tuple[slice, ...]:
    """Each task's columns: of the sentence logits, or of the token logits if the task is token-level."""
    slices, ends = [], {True: 0, False: 0}
    for task in tasks:
        start = ends[task.token_level]
        ends[task.token_level] = start + task.num_outputs
        slices.append(slice(start, ends[task.token_level]))
    return tuple(slices)


class Heads(nn.Module):
    """All outputs of all tasks: one matrix product for the rows, one for their tokens."""

    def __init__(self, pooled_size: int, size: int, tasks: Sequence[Task], dropout: float) -> None:
        """`pooled_size`: width of a row's pooled state. `size`: width of a token's state."""
        super().__init__()
        self.sentence = HeadMatrix(pooled_size, sum(task.num_outputs for task in tasks if not task.token_level))
        self.token = HeadMatrix(size, sum(task.num_outputs for task in tasks if task.token_level))
        self.dropout = Dropout(dropout)

    def forward(self, pooled_BD: Tensor, states_BLD: Tensor, token_level: bool) -> Outputs:
        token = cast(Tensor, self.token(self.dropout(states_BLD))) if token_level else None
        return Outputs(self.sentence(self.dropout(pooled_BD)), token)


class HeadMatrix(nn.Module):
    """A linear layer that may have no outputs, because all tasks may be sentence-level, or all token-level."""

    def __init__(self, size: int, num_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_outputs, size) * 0.02)
        self.bias = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, states: Tensor) -> Tensor:
        return functional.linear(states, self.weight, self.bias)


def pool_mean(states_BLD: Tensor, is_token_BL: Tensor) -> Tensor:
    """The mean of each row's token states without padding: [B, D]."""
    weights = is_token_BL[:, :, None].to(states_BLD.dtype)
    return torch.sum(states_BLD * weights, dim=1) / weights.sum(dim=1)


def pool_pairs(states_BLD: Tensor, is_token_BL: Tensor, segment_ids_BL: Tensor) -> Tensor:
    """The mean of each row's token states and a comparison of its two texts: [B, 3 D].

    The comparison is |u - v| and u * v, where u and v are the means of segments 0 and 1, as in bi-encoders (Reimers &
    Gurevych, "Sentence-BERT", 2019). It is zero for a row without segment 1.
    """
    is_second_BL = segment_ids_BL == 1
    is_pair_B1 = is_second_BL.any(dim=1, keepdim=True).to(states_BLD.dtype)
    first = pool_mean(states_BLD, is_token_BL & ~is_second_BL)
    second = pool_mean(
        states_BLD, is_second_BL | (is_pair_B1 == 0)
    )  # without a second text any mean will do: it is multiplied by zero
    compared = [(first - second).abs() * is_pair_B1, first * second * is_pair_B1]
    return torch.cat([pool_mean(states_BLD, is_token_BL), *compared], dim=1)
