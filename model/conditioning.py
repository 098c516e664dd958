"""What CA-MTL adds to a backbone: modules that a task embedding steers.

Each module has two halves. `table(task_TD)` evaluates its hypernetwork for all T tasks at once; the result's first
axis is the task. `forward` applies one gathered row per text. Nothing in a forward depends on which tasks are in
the batch. With the FiLM weights at zero, as they start, every module is the identity.
Source: Pilault et al., "Conditionally Adaptive Multi-Task Learning", ICLR 2021.

Shapes: B rows, L tokens, D hidden size, T tasks, W width of an attention block, M longest row.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_EMBEDDING_STD = 0.1


class Conditional(nn.Module):
    """Marks a module whose own parameters come on top of the backbone; freezing the backbone leaves them be."""


class TaskEmbedding(Conditional):
    """One vector per task, and the transformed vector that the layers read (raw: the alignment)."""

    def __init__(self, num_tasks: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_tasks, size) * _EMBEDDING_STD)
        self.transform = nn.Linear(size, size)
        nn.init.eye_(self.transform.weight)
        nn.init.zeros_(self.transform.bias)

    def forward(self) -> tuple[Tensor, Tensor]:
        """The raw and the transformed task vectors, each [T, D]."""
        return self.weight, cast(Tensor, self.transform(self.weight))


class FiLM(Conditional):
    """Task vectors [T, D] to a scale and a shift of `size` values each: [T, 2, size]. Zero at the start."""

    def __init__(self, task_size: int, size: int) -> None:
        super().__init__()
        self.projection = nn.Linear(task_size, 2 * size)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, task_TD: Tensor) -> Tensor:
        return cast(Tensor, self.projection(task_TD)).view(task_TD.shape[0], 2, -1)


def modulate(states_BLD: Tensor, film_B2D: Tensor) -> Tensor:
    """(1 + scale) * states + shift, the scale and shift of a row spread over its tokens."""
    scale, shift = film_B2D[:, :1], film_B2D[:, 1:]
    return states_BLD * (1 + scale) + shift


class ConditionalAttentionBias(Conditional):
    """A block-diagonal bias on the attention scores, shared by the heads: A = (1 + scale) * R + shift per block.

    R is [M, W] and starts at zero. A row of the bias is cut into blocks of W tokens; outside its own block it is 0.
    Only the first L rows and columns are used, so texts need not be padded to M.
    """

    def __init__(self, task_size: int, max_length: int, width: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(max_length, width))
        self.film = FiLM(task_size, width)

    def table(self, task_TD: Tensor) -> Tensor:
        """Scale and shift of every key position: [T, 2, M]."""
        max_length, width = self.matrix.shape
        film = cast(Tensor, self.film(task_TD))
        return film.repeat(1, 1, -(-max_length // width))[:, :, :max_length]

    def forward(self, film_B2M: Tensor, length: int) -> Tensor:
        """The bias of each row: [B, L, L]."""
        width = self.matrix.shape[1]
        position = torch.arange(length, device=self.matrix.device)
        same_block_LL = position[:, None] // width == position[None, :] // width
        matrix_LL = self.matrix[:length, position % width]
        scale_B1L, shift_B1L = film_B2M[:, :1, :length], film_B2M[:, 1:, :length]
        return ((1 + scale_B1L) * matrix_LL + shift_B1L) * same_block_LL


class ConditionalLayerNorm(nn.Module):
    """Layer norm whose scale and shift depend on the task: weight * (1 + scale), bias + shift.

    `weight` and `bias` are the backbone's own; `film` is None where the layer norm is an ordinary one.
    """

    def __init__(self, size: int, eps: float, task_size: int | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.film = None if task_size is None else FiLM(task_size, size)
        self.eps = eps

    def table(self, task_TD: Tensor) -> Tensor | None:
        """The folded weight and bias of every task, [T, 2, D]; None for an ordinary layer norm."""
        if self.film is None:
            return None
        scale, shift = cast(Tensor, self.film(task_TD)).unbind(1)
        return torch.stack([self.weight * (1 + scale), self.bias + shift], dim=1)

    def forward(self, states_BLD: Tensor, affine_B2D: Tensor | None) -> Tensor:
        if affine_B2D is None:
            return functional.layer_norm(states_BLD, self.weight.shape, self.weight, self.bias, self.eps)
        normed = functional.layer_norm(states_BLD, self.weight.shape, eps=self.eps)
        return normed * affine_B2D[:, :1] + affine_B2D[:, 1:]


class ConditionalBottleneck(Conditional):
    """A residual bottleneck behind a layer: h + up(gelu(down(FiLM(h)))). `up` starts at zero."""

    def __init__(self, task_size: int, size: int, bottleneck_size: int) -> None:
        super().__init__()
        self.film = FiLM(task_size, size)
        self.down = nn.Linear(size, bottleneck_size)
        self.up = nn.Linear(bottleneck_size, size)
        nn.init.normal_(self.down.weight, std=0.02)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def table(self, task_TD: Tensor) -> Tensor:
        """Scale and shift of the bottleneck's input: [T, 2, D]."""
        return cast(Tensor, self.film(task_TD))

    def forward(self, states_BLD: Tensor, film_B2D: Tensor) -> Tensor:
        inner = functional.gelu(self.down(modulate(states_BLD, film_B2D)))
        return states_BLD + cast(Tensor, self.up(inner))
