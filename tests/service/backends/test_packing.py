"""Packing: a batch as one tensor of numbers."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from polytask.service.backends.packing import pack, packed_size, unpack
from tests.model.support.networks import random_batch
from tests.support import tiny


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    more_rows=st.integers(0, 3),
    more_tokens=st.integers(0, 9),
)
def test_what_is_packed_comes_out_padded(lengths: list[int], more_rows: int, more_tokens: int) -> None:
    """Rows and tokens of the batch are unchanged; added rows have one token of task 0."""
    batch = random_batch(tiny.config(), lengths, [row % 7 for row in range(len(lengths))])
    num_rows, length = len(lengths), max(lengths)
    shape = num_rows + more_rows, length + more_tokens
    numbers = pack(batch, *shape)
    assert numbers.shape == (packed_size(*shape),)
    found = unpack(numbers, *shape, token_level=True)
    assert found.token_level
    for own, padded in ((batch.input_ids, found.input_ids), (batch.segment_ids, found.segment_ids)):
        assert padded.shape == shape
        assert torch.equal(padded[:num_rows, :length], own)
        assert not padded[num_rows:].any()
        assert not padded[:, length:].any()
    assert found.lengths.tolist() == lengths + [1] * more_rows
    assert found.task_ids.tolist() == batch.task_ids.tolist() + [0] * more_rows


def test_views_share_the_numbers() -> None:
    """Unpacking copies nothing: overwriting the numbers changes the batch."""
    one, other = (random_batch(tiny.config(), [3, 2], [0, 1], seed=seed) for seed in (0, 1))
    numbers = pack(one, 2, 3)
    batch = unpack(numbers, 2, 3, token_level=False)
    numbers.copy_(pack(other, 2, 3))
    assert torch.equal(batch.input_ids, other.input_ids)
