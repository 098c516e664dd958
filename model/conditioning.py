"""Conditional modules of CA-MTL: the layers that a task embedding controls.

Each module has two halves. `table(task_TE)` evaluates its hypernetwork for all T tasks at once; the first axis of the
result is the task. `forward` applies one gathered entry to each row. A forward does not depend on which other tasks
are in the batch. FiLM weights start at zero, and there every module of our own forms is the identity.
Source: Pilault et al., "Conditionally Adaptive Multi-Task Learning", ICLR 2021. The paper scales by gamma; the released
code and ours scale by 1 + g. The two differ by an offset that is learned, so there is no switch for it.

Shapes: B rows, L tokens, D hidden size, T tasks, E size of a task vector, W width of an attention block, M longest row,
N layers with an attention bias, K blocks of the longest row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from polytask.model.config import BottleneckForm, LayerNormForm

_EMBEDDING_STD = 0.1


class Conditional(nn.Module):
    """Base class of modules whose parameters are not the backbone's, so that they stay trainable when the backbone is frozen."""


class TaskEmbedding(Conditional):
    """One vector per task. The alignment reads it raw, the layers read it transformed."""

    def __init__(self, num_tasks: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_tasks, size) * _EMBEDDING_STD)
        self.transform = nn.Linear(size, size)
        nn.init.eye_(self.transform.weight)
        nn.init.zeros_(self.transform.bias)

    def forward(self) -> tuple[Tensor, Tensor]:
        """The raw and the transformed task vectors, each [T, E]."""
        return self.weight, cast(Tensor, self.transform(self.weight))


class TaskProjection(Conditional):
    """Projection of task vectors [T, E] to [T, size]. Zero at the start.

    A `rank` above 0 makes it a product of two smaller matrices, E -> rank -> size, with fewer parameters.
    """

    def __init__(self, task_size: int, size: int, rank: int = 0) -> None:
        super().__init__()
        self.reduce = nn.Linear(task_size, rank, bias=False) if rank else None
        self.projection = nn.Linear(rank or task_size, size)
        if self.reduce is not None:
            # Keeps the size of the task vector's values, so that the projection learns as fast as a full one.
            nn.init.normal_(self.reduce.weight, std=task_size**-0.5)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, task_TE: Tensor) -> Tensor:
        reduced = task_TE if self.reduce is None else self.reduce(task_TE)
        return cast(Tensor, self.projection(reduced))


class FiLM(TaskProjection):
    """Feature-wise scale and shift from task vectors [T, E]: 1 + scale and shift, [T, 2, size]. 1 and 0 at the start.

    Source of the name: Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018.
    """

    def __init__(self, task_size: int, size: int, rank: int = 0) -> None:
        super().__init__(task_size, 2 * size, rank)

    def forward(self, task_TE: Tensor) -> Tensor:
        scale, shift = super().forward(task_TE).chunk(2, dim=-1)
        return torch.stack([1 + scale, shift], dim=1)


def scaled(states: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`states * scale + shift`. In bfloat16 without gradients it is one pass, which rounds once instead of twice."""
    if states.dtype == torch.bfloat16 and not torch.is_grad_enabled():
        return torch.addcmul(shift, states, scale)
    return states * scale + shift


def modulate(states_BLD: Tensor, film_B2D: Tensor) -> Tensor:
    """(1 + scale) * states + shift, with the scale and shift of a row applied to all its tokens."""
    return scaled(states_BLD, film_B2D[:, :1], film_B2D[:, 1:])


class AlignmentMatrix(Conditional):
    """The paper's alignment: states times a matrix R whose columns a task scales and shifts. R starts as the identity.

    X ((1 + g) * R + b) is computed as (1 + g) * (X R) + b * (sum of X's features), which needs no matrix per task.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(size))

    def forward(self, states_BLD: Tensor, film_B2D: Tensor) -> Tensor:
        return (states_BLD @ self.matrix) * film_B2D[:, :1] + states_BLD.sum(-1, keepdim=True) * film_B2D[:, 1:]


class ConditionalAttentionBias(Conditional):
    """A block-diagonal bias on the attention scores, shared by the heads: A = (1 + scale) * R + shift per block.

    R is [M, W] and starts at zero. Blocks are W tokens wide; outside the diagonal blocks the bias is 0.
    `attention_masks` computes the masks of all layers from it.
    """

    def __init__(self, task_size: int, max_length: int, width: int, film_rank: int = 0) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(max_length, width))
        self.film = FiLM(task_size, width, film_rank)

    def table(self, task_TE: Tensor) -> Tensor:
        """1 + scale and shift of every key position: [T, 2, M]."""
        max_length, width = self.matrix.shape
        film = cast(Tensor, self.film(task_TE))
        return film.repeat(1, 1, -(-max_length // width))[:, :, :max_length]

    def blocks(self) -> Tensor:
        """R as diagonal blocks, 0 elsewhere: [M, M]."""
        max_length, width = self.matrix.shape
        return cast(Tensor, torch.block_diag(*torch.split(self.matrix, width)))[:, :max_length]  # type: ignore[no-untyped-call]


def attention_masks(matrices_NMM: Tensor, films_BN2M: Tensor, padding_BL: Tensor, width: int) -> Iterator[Tensor]:
    """Yields the bias with padding added of each of N layers, for blocks of `width`: [B, 1, L, L], queries before keys.

    The masks are made one at a time, so that without gradients only one layer's mask takes memory.

    `padding_BL`: -inf for keys at padding, else 0. Only the first L rows and columns of a bias are used, so rows need
    no padding to M.
    """
    max_length, length = matrices_NMM.shape[1], padding_BL.shape[1]
    # Built for the longest row, not for `length`, so that they are constants in an exported graph.
    block_M = torch.arange(max_length, device=padding_BL.device) // width
    blocks_K1 = torch.arange(-(-max_length // width), device=padding_BL.device)[:, None]
    in_block_KL = (block_M == blocks_K1)[:, :length].to(padding_BL.dtype)
    scale_BN1L, shift_BN1L = films_BN2M[:, :, :1, :length], films_BN2M[:, :, 1:, :length]
    # All queries of a block have the same shift: added for each block first, then copied to each query.
    shift_BNKL = shift_BN1L * in_block_KL + padding_BL[:, None, None]
    layers = zip(
        torch.split(matrices_NMM[:, :length, :length], 1),
        torch.split(scale_BN1L, 1, dim=1),
        torch.split(shift_BNKL, 1, dim=1),
        strict=True,
    )
    for matrix, scale, shift in layers:
        yield scaled(matrix, scale, shift.index_select(2, block_M[:length]))


class ConditionalLayerNorm(nn.Module):
    """Layer norm whose scale and shift depend on the task, in one of the forms of `LayerNormForm`.

    `weight` and `bias` are the backbone's; `film` is None in an ordinary layer norm.
    """

    def __init__(
        self,
        size: int,
        eps: float,
        task_size: int | None,
        film_rank: int = 0,
        form: LayerNormForm = LayerNormForm.BOTH,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.film = None if task_size is None else FiLM(task_size, size, film_rank)
        self.form = form
        self.eps = eps

    def table(self, task_TE: Tensor) -> Tensor | None:
        """The folded weight and bias of every task, [T, 2, D]; None for an ordinary layer norm."""
        if self.film is None:
            return None
        scale, shift = cast(Tensor, self.film(task_TE)).unbind(1)
        weight = self.weight * scale
        match self.form:
            case LayerNormForm.BOTH:
                return torch.stack([weight, self.bias + shift], dim=1)
            case LayerNormForm.SCALE:
                return torch.stack([weight + shift, self.bias.expand_as(shift)], dim=1)
            case LayerNormForm.BIAS_IN_SCALE:
                return torch.stack([weight + self.bias, shift], dim=1)

    def forward(self, states_BLD: Tensor, affine_B2D: Tensor | None) -> Tensor:
        if affine_B2D is None:
            return functional.layer_norm(states_BLD, self.weight.shape, self.weight, self.bias, self.eps)
        return modulate(functional.layer_norm(states_BLD, self.weight.shape, eps=self.eps), affine_B2D)


class ConditionalBottleneck(Conditional):
    """The inner part of a bottleneck, up(gelu(down(FiLM(h)))). `BottleneckForm` says how it is added to the layer.

    The released forms have no activation, and a linear layer of their own between the task vector and FiLM. An adapter
    also owns the layer norm after it. `up` starts at zero.
    """

    def __init__(
        self,
        task_size: int,
        size: int,
        bottleneck_size: int,
        film_rank: int = 0,
        form: BottleneckForm = BottleneckForm.RESIDUAL,
        norm: ConditionalLayerNorm | None = None,
    ) -> None:
        super().__init__()
        self.form = form
        self.transform = None if form is BottleneckForm.RESIDUAL else nn.Linear(task_size, task_size)
        self.film = FiLM(task_size, size, film_rank)
        self.down = nn.Linear(size, bottleneck_size)
        self.up = nn.Linear(bottleneck_size, size)
        self.norm = norm
        nn.init.normal_(self.down.weight, std=0.02)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def table(self, task_TE: Tensor) -> Tensor:
        """1 + scale and shift of the bottleneck's input: [T, 2, D]."""
        return cast(Tensor, self.film(task_TE if self.transform is None else self.transform(task_TE)))

    def forward(self, states_BLD: Tensor, film_B2D: Tensor) -> Tensor:
        inner = self.down(modulate(states_BLD, film_B2D))
        if self.form is BottleneckForm.RESIDUAL:
            inner = functional.gelu(inner)
        return cast(Tensor, self.up(inner))


class ConditionalPooling(Conditional):
    """Pooling by a mean of token states, weighted by a task's query q: softmax(h q / sqrt(D)) over the tokens.

    It is ours: neither the paper nor the released code has it. The query starts at zero, which gives the plain mean.
    """

    def __init__(self, task_size: int, size: int, rank: int = 0) -> None:
        super().__init__()
        self.query = TaskProjection(task_size, size, rank)

    def table(self, task_TE: Tensor) -> Tensor:
        """The query of every task: [T, D]."""
        return cast(Tensor, self.query(task_TE))

    def forward(self, states_BLD: Tensor, is_token_BL: Tensor, query_BD: Tensor) -> Tensor:
        """The state of each row: [B, D]. Padding has weight 0."""
        scores = (states_BLD @ query_BD[:, :, None])[:, :, 0] / math.sqrt(states_BLD.shape[-1])
        weights = scores.masked_fill(~is_token_BL, float("-inf")).softmax(dim=-1)
        return (weights[:, None].to(states_BLD.dtype) @ states_BLD)[:, 0]
