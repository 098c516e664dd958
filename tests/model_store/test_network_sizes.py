"""Network sizes: every size of a manifest is compared with the stored tensors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polytask.model.config import NetworkConfig, Pooling
from polytask.model.network import Network
from polytask.model_store.network_sizes import size_mismatches
from tests.support import tiny

_WIDE = replace(
    tiny.config(), embedding_size=8, film_rank=3, task_size=5, relative_attention_buckets=8, pooling=Pooling.PAIRS
)
_PLAIN = replace(
    tiny.config(),
    num_segments=0,
    conditional_alignment=False,
    conditional_attention=(),
    conditional_layer_norm=(),
    conditional_bottleneck=(),
    film_rank=7,
)


@pytest.mark.parametrize("config", [tiny.config(), _WIDE, _PLAIN, replace(tiny.config(), word_shapes=True)])
def test_a_network_has_the_sizes_of_its_tensors(config: NetworkConfig) -> None:
    """The tensors of a network of any form have all sizes of its configuration."""
    assert size_mismatches(config, Network(config, tiny.tasks()).state_dict()) == []


@pytest.mark.parametrize(
    "size",
    [
        "vocab_size",
        "hidden_size",
        "num_layers",
        "intermediate_size",
        "max_positions",
        "max_length",
        "num_segments",
        "bottleneck_size",
        "film_rank",
        "task_size",
        "embedding_size",
        "relative_attention_buckets",
    ],
)
@pytest.mark.parametrize("factor", [2, 10**12])
def test_a_size_that_the_tensors_do_not_have_is_named(size: str, factor: int) -> None:
    """A larger size, a little or absurdly, is named, and no memory is needed to find it."""
    tensors = Network(_WIDE, tiny.tasks()).state_dict()
    values = {size: getattr(_WIDE, size) * factor}
    if size == "max_length":
        values["max_positions"] = values[size]
    assert any(size in mismatch for mismatch in size_mismatches(replace(_WIDE, **values), tensors))


def test_shapes_that_the_tensors_do_not_have_are_named() -> None:
    """A network that says it reads the shapes of words needs their table."""
    tensors = Network(tiny.config(), tiny.tasks()).state_dict()
    assert size_mismatches(replace(tiny.config(), word_shapes=True), tensors) == [
        "word_shapes 7 (embeddings.shape.weight has none)"
    ]
