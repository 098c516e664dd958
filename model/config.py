"""The sizes and switches of a network: facts about its weights, kept in the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Pooling(StrEnum):
    """How token states become one text state."""

    MEAN = "mean"
    CLS = "cls"


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Sizes of the backbone and the layers in which each conditional module is switched on.

    The conditional modules are those of CA-MTL (Pilault et al., ICLR 2021). Lengths count tokens.
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

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size", "num_segments")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if not 0 < self.max_length <= self.max_positions:
            raise ValueError(f"max_length {self.max_length} must be 1 to max_positions {self.max_positions}")
        if not 0 < self.attention_blocks <= self.max_length:
            raise ValueError(f"attention_blocks {self.attention_blocks} must be 1 to max_length {self.max_length}")
        if self.conditional_bottleneck and self.bottleneck_size < 1:
            raise ValueError("conditional_bottleneck needs a bottleneck_size of at least 1")
        for name in ("conditional_attention", "conditional_layer_norm", "conditional_bottleneck"):
            layers = getattr(self, name)
            if any(not 0 <= layer < self.num_layers for layer in layers):
                raise ValueError(f"{name} {list(layers)} names a layer outside 0..{self.num_layers - 1}")

    @property
    def attention_block_width(self) -> int:
        """Tokens in one diagonal block of the conditional attention bias (the last may be shorter)."""
        return -(-self.max_length // self.attention_blocks)
