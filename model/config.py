"""Network configuration: sizes and switches, kept in the manifest beside the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from polytask.model.word_shapes import FIRST_SHAPE_SEGMENT


class Pooling(StrEnum):
    """How token states become the state of a row, which the sentence heads read.

    `mean`: the mean m of the token states. `cls`: the pretrained pooler on the first one. `pairs` (ours): m, |u - v|
    and u * v, where u and v are the means of the row's two texts; a row of one text has zeros for the last two.
    """

    MEAN = "mean"
    CLS = "cls"
    PAIRS = "pairs"


class AlignmentForm(StrEnum):
    """How a task changes the embeddings X: by FiLM (g, b), as in the released code, or by the paper's matrix R.

    `film`: (1 + g) * X + b. `matrix`: X R_t with R_t = (1 + g) * R + b, where g and b act on R's columns.
    """

    FILM = "film"
    MATRIX = "matrix"


class LayerNormForm(StrEnum):
    """Scale and shift of the normalised states, from the backbone's weight w and bias c and from FiLM (g, b).

    `both` (ours): scale (1 + g) w, shift c + b. `scale` (released code): scale (1 + g) w + b, shift c. `bias-in-scale`
    (paper): scale (1 + g) w + c, shift b.
    """

    BOTH = "both"
    SCALE = "scale"
    BIAS_IN_SCALE = "bias-in-scale"


class BottleneckForm(StrEnum):
    """How a conditional bottleneck changes the output h of its layer.

    `residual` (ours): the layer's output is h + up(gelu(down(FiLM(h)))). The other two are the released code's: they
    have no activation, and a linear layer of their own before FiLM: n(h) = up(down(FiLM(h))). `adapter` (base): the
    output is a conditional layer norm of n(h) + a, where a is the layer's attention output after its layer norm.
    `ladder` (large): h passes unchanged to the next layer; beside it f = n(h + f of the previous bottleneck), and the
    last f is the encoder's output.
    """

    RESIDUAL = "residual"
    ADAPTER = "adapter"
    LADDER = "ladder"


class Product(StrEnum):
    """The six matrix products of a layer, to which a task may add a low-rank residual of its own."""

    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    ATTENTION_OUTPUT = "attention_output"
    EXPAND = "expand"
    CONTRACT = "contract"


_MINIMUMS = {
    "vocab_size": 1,
    "hidden_size": 1,
    "num_layers": 1,
    "num_heads": 1,
    "intermediate_size": 1,
    "num_segments": 0,
    "embedding_size": 0,
    "relative_attention_buckets": 0,
    "film_rank": 0,
    "task_size": 0,
    "alignment_layer": 0,
    "joint_rows": 0,
    "residual_rank": 0,
}


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Sizes of the backbone, and the layers in which each conditional module is on.

    The conditional modules are those of CA-MTL (Pilault et al., ICLR 2021). Lengths count tokens. `film_rank`: rank of
    every FiLM's projection (0: full). `task_size`: length of a task's vector (0: hidden_size). Every FiLM reads a task
    vector, and T tasks span at most T dimensions, so a short vector makes all FiLMs cheaper. `num_segments`: 0 for a
    backbone without segment embeddings. `embedding_size`: width of the embeddings (0: hidden_size).
    `relative_attention_buckets`: number of buckets of token distances, as in MPNet (0: none). `word_shapes`: segments of
    their own for the shapes of words, see `polytask.model.word_shapes`. `alignment_layer`: the
    layer whose input the alignment changes.

    `task_rows`: the row of the task tables that each task reads (empty: task t reads row t). The first `joint_rows` rows
    (0: one a task) are computed by the hypernetwork, the others are stored: tuned rows. `residual_rank`: rank of what a
    tuned row adds to the `residual_products` of the `residual_layers` (0: nothing).
    Raises ValueError if the sizes do not fit each other.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    num_segments: int = 2
    layer_norm_eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    pooling: Pooling = Pooling.MEAN
    max_length: int = 128
    attention_blocks: int = 1
    bottleneck_size: int = 0
    conditional_alignment: bool = True
    conditional_attention: tuple[int, ...] = ()
    conditional_layer_norm: tuple[int, ...] = ()
    conditional_bottleneck: tuple[int, ...] = ()
    conditional_pooling: bool = False
    film_rank: int = 0
    task_size: int = 0
    alignment_form: AlignmentForm = AlignmentForm.FILM
    layer_norm_form: LayerNormForm = LayerNormForm.BOTH
    bottleneck_form: BottleneckForm = BottleneckForm.RESIDUAL
    embedding_size: int = 0
    relative_attention_buckets: int = 0
    word_shapes: bool = False
    alignment_layer: int = 0
    joint_rows: int = 0
    task_rows: tuple[int, ...] = ()
    residual_rank: int = 0
    residual_layers: tuple[int, ...] = ()
    residual_products: tuple[Product, ...] = ()

    def __post_init__(self) -> None:
        for name, minimum in _MINIMUMS.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {getattr(self, name)}")
        if not 0 < self.layer_norm_eps < math.inf:
            raise ValueError(f"layer_norm_eps must be above 0, got {self.layer_norm_eps}")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.relative_attention_buckets % 4:
            raise ValueError(f"relative_attention_buckets {self.relative_attention_buckets} is not a multiple of 4")
        if self.word_shapes and self.num_segments != FIRST_SHAPE_SEGMENT:
            raise ValueError(f"word_shapes need {FIRST_SHAPE_SEGMENT} other segments, there are {self.num_segments}")
        if not 0 < self.max_length <= self.max_positions:
            raise ValueError(f"max_length {self.max_length} must be 1 to max_positions {self.max_positions}")
        self._check_conditioning()

    def _check_conditioning(self) -> None:
        if not 0 < self.attention_blocks <= self.max_length:
            raise ValueError(f"attention_blocks {self.attention_blocks} must be 1 to max_length {self.max_length}")
        if self.conditional_bottleneck and self.bottleneck_size < 1:
            raise ValueError("conditional_bottleneck needs a bottleneck_size of at least 1")
        if self.conditional_pooling and self.pooling is not Pooling.MEAN:
            raise ValueError(f"conditional_pooling weights the mean of the tokens, but pooling is {self.pooling}")
        if self.pooling is Pooling.PAIRS and self.num_segments < 2:
            raise ValueError("pooling pairs tells two texts apart by their segments, which this backbone does not have")
        for name in (
            "conditional_attention",
            "conditional_layer_norm",
            "conditional_bottleneck",
            "residual_layers",
        ):
            layers = getattr(self, name)
            if any(not 0 <= layer < self.num_layers for layer in layers):
                raise ValueError(f"{name} {list(layers)} names a layer outside 0..{self.num_layers - 1}")
        if self.alignment_layer >= self.num_layers:
            raise ValueError(f"alignment_layer {self.alignment_layer} is outside 0..{self.num_layers - 1}")
        self._check_rows()

    def _check_rows(self) -> None:
        if self.task_rows and not self.joint_rows:
            raise ValueError("task_rows needs the number of rows that are computed, joint_rows")
        unread = set(range(self.joint_rows, self.joint_rows + self.num_tuned_rows)) - set(self.task_rows)
        if unread or any(row < 0 for row in self.task_rows):
            raise ValueError(
                f"task_rows {list(self.task_rows)} must read every row from {self.joint_rows} on, none below 0"
            )
        if bool(self.residual_rank) != bool(self.residual_layers and self.residual_products):
            raise ValueError("a residual needs residual_rank, residual_layers and residual_products, or none of them")

    @property
    def num_tuned_rows(self) -> int:
        """Number of rows of the task tables that are stored."""
        return max(0, max(self.task_rows, default=-1) + 1 - self.joint_rows)

    @property
    def first_conditioned_layer(self) -> int:
        """The lowest layer whose input or inner values depend on the task: what is below is the same for all tasks."""
        layers = {
            *self.conditional_attention,
            *self.conditional_layer_norm,
            *self.conditional_bottleneck,
            *self.residual_layers,
        }
        return min(layers | ({self.alignment_layer} if self.conditional_alignment else set()), default=self.num_layers)

    @property
    def attention_block_width(self) -> int:
        """Tokens in one diagonal block of the conditional attention bias (the last may be shorter)."""
        return -(-self.max_length // self.attention_blocks)

    @property
    def task_vector_size(self) -> int:
        """Length of a task's vector."""
        return self.task_size or self.hidden_size


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Numbers of parameters by owner, and the number of all that are trainable.

    `backbone`: published, a `cls` pooler included. `conditional`: added by conditioning. `heads`: the rest.
    """

    backbone: int
    conditional: int
    heads: int
    trainable: int

    @property
    def total(self) -> int:
        """All parameters."""
        return self.backbone + self.conditional + self.heads

    def __str__(self) -> str:
        added, share = self.conditional / self.backbone, self.trainable / self.total
        return (
            f"{self.total:,} parameters, {self.trainable:,} of them trainable ({share:.2%}): "
            f"backbone {self.backbone:,}, conditional {self.conditional:,} ({added:.2%} of the backbone), heads {self.heads:,}"
        )
