"""Network configuration: checks, defaults and block widths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.model.config import NetworkConfig, Pooling

_SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_layers": 3,
    "num_heads": 4,
    "intermediate_size": 64,
    "max_positions": 512,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "hidden_size 32 is not a multiple of num_heads 5"),
        ({"num_segments": -1}, "num_segments must be at least 0, got -1"),
        ({"embedding_size": -1}, "embedding_size must be at least 0"),
        ({"relative_attention_buckets": 6}, "relative_attention_buckets 6 is not a multiple of 4"),
        ({"max_length": 513}, "max_length 513 must be 1 to max_positions 512"),
        ({"max_length": 0}, "max_length 0"),
        ({"attention_blocks": 0}, "attention_blocks 0"),
        ({"max_length": 16, "attention_blocks": 17}, "attention_blocks 17 must be 1 to max_length 16"),
        ({"conditional_bottleneck": (0,)}, "bottleneck_size of at least 1"),
        ({"film_rank": -1}, "film_rank must be at least 0, got -1"),
        ({"task_size": -1}, "task_size must be at least 0"),
        ({"conditional_pooling": True, "pooling": Pooling.CLS}, "conditional_pooling .* but pooling is cls"),
        ({"num_segments": 1, "pooling": Pooling.PAIRS}, "pooling pairs .* segments"),
        ({"conditional_attention": (3,)}, r"conditional_attention \[3\] names a layer outside 0\.\.2"),
        ({"conditional_layer_norm": (0, -1)}, "conditional_layer_norm"),
        ({"conditional_bottleneck": (9,), "bottleneck_size": 4}, "conditional_bottleneck"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    """Sizes that do not fit each other are refused with the name and the value."""
    with pytest.raises(ValueError, match=message):
        NetworkConfig(**{**_SIZES, **changes})


def test_conditional_layers_are_off_by_default() -> None:
    """A config that names no layers has no conditional layers."""
    config = NetworkConfig(**_SIZES)
    assert config.conditional_attention == config.conditional_layer_norm == config.conditional_bottleneck == ()


def test_a_task_vector_is_as_wide_as_the_states_unless_it_says() -> None:
    """`task_size` 0 stands for `hidden_size`."""
    assert NetworkConfig(**_SIZES).task_vector_size == 32
    assert NetworkConfig(**_SIZES, task_size=5).task_vector_size == 5


@pytest.mark.parametrize(("max_length", "blocks", "width"), [(128, 6, 22), (128, 8, 16), (256, 3, 86), (384, 2, 192)])
def test_block_widths_are_those_of_the_published_model(max_length: int, blocks: int, width: int) -> None:
    """Blocks are as wide as in CA-MTL base (768 / length blocks) and large (1024 / length)."""
    assert NetworkConfig(**_SIZES, max_length=max_length, attention_blocks=blocks).attention_block_width == width


@given(st.integers(1, 512).flatmap(lambda length: st.tuples(st.just(length), st.integers(1, length))))
def test_blocks_cover_the_longest_row(length_and_blocks: tuple[int, int]) -> None:
    """The blocks together cover the longest row, and blocks one token narrower would not."""
    length, blocks = length_and_blocks
    width = replace(NetworkConfig(**_SIZES), max_length=length, attention_blocks=blocks).attention_block_width
    assert (width - 1) * blocks < length <= width * blocks
