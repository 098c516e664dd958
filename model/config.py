"""The sizes and switches of a network: facts about its weights, kept in the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Pooling(StrEnum):
    """How token states become the state of a row, which the sentence heads read.

    `mean`: their mean m. `cls`: the pretrained pooler on the first. `pairs` (ours): m, |u - v| and u * v, where u and v
    are the means of the two texts of a row; a row of one text has zeros there.
    """

    MEAN = "mean"
    CLS = "cls"
    PAIRS = "pairs"


class AlignmentForm(StrEnum):
    """How the embeddings X become a task's own. FiLM (g, b) as the released code has it, or the paper's matrix R.

    `film`: (1 + g) * X + b. `matrix`: X R_t with R_t = (1 + g) * R + b, the modulation acting on R's columns.
    """

    FILM = "film"
    MATRIX = "matrix"


class LayerNormForm(StrEnum):
    """What multiplies and what is added to the normalised states, from the backbone's weight w, bias c and FiLM (g, b).

    `both` (ours): (1 + g) w, and c + b. `scale` (released code): (1 + g) w + b, and c. `bias-in-scale` (paper):
    (1 + g) w + c, and b.
    """

    BOTH = "both"
    SCALE = "scale"
    BIAS_IN_SCALE = "bias-in-scale"


class BottleneckForm(StrEnum):
    """What a conditional bottleneck does with the output h of its layer, FiLM being its modulation.

    `residual` (ours): h + up(gelu(down(FiLM(h)))) is the layer's output. The other two are the released code's, without
    activation and with a linear layer of its own before FiLM: n(h) = up(down(FiLM(h))). `adapter` (base): the output is
    a conditional layer norm of n(h) + what the layer's attention gave, after its layer norm. `ladder` (large): h goes
    on as it is; beside it f = n(h + the f of the bottleneck before), and the last f is the encoder's output.
    """

    RESIDUAL = "residual"
    ADAPTER = "adapter"
    LADDER = "ladder"


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
}


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Sizes of the backbone and the layers in which each conditional module is switched on.

    The conditional modules are those of CA-MTL (Pilault et al., ICLR 2021). Lengths count tokens. `film_rank`: every
    FiLM goes through that many values (0: straight). `task_size`: the length of a task's vector (0: hidden_size); every
    FiLM reads one, and T tasks span no more than T dimensions, so a short one makes all of them cheaper at once.
    `num_segments`: 0 for a backbone that tells no texts of a pair apart. `embedding_size`: the width of the embeddings
    (0: hidden_size). `relative_attention_buckets`: of distances between tokens, as MPNet has them (0: none).
    Raises ValueError where the sizes do not fit each other.
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

    def __post_init__(self) -> None:
        for name, minimum in _MINIMUMS.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {getattr(self, name)}")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.relative_attention_buckets % 4:
            raise ValueError(f"relative_attention_buckets {self.relative_attention_buckets} is not a multiple of 4")
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
        for name in ("conditional_attention", "conditional_layer_norm", "conditional_bottleneck"):
            layers = getattr(self, name)
            if any(not 0 <= layer < self.num_layers for layer in layers):
                raise ValueError(f"{name} {list(layers)} names a layer outside 0..{self.num_layers - 1}")

    @property
    def attention_block_width(self) -> int:
        """Tokens in one diagonal block of the conditional attention bias (the last may be shorter)."""
        return -(-self.max_length // self.attention_blocks)

    @property
    def task_vector_size(self) -> int:
        """Values in the vector of a task."""
        return self.task_size or self.hidden_size


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Parameters of a network by what they belong to, and how many of all are trainable.

    `backbone`: what is published, a `cls` pooler included. `conditional`: what conditioning adds. `heads`: the rest.
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
            f"{self.total:,} parameters, {self.trainable:,} of them trainable ({share:.2%}): backbone {self.backbone:,}, "
            f"conditional {self.conditional:,} ({added:.2%} of the backbone), heads {self.heads:,}"
        )
