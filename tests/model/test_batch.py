"""Batches: padding, types and moves between devices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polytask.model.batch import collate
from polytask.model.encoding import Encoding

_ROW = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 1)), min_size=1, max_size=12).map(
    lambda tokens: Encoding(tuple(token for token, _ in tokens), tuple(segment for _, segment in tokens))
)


@given(st.lists(st.tuples(_ROW, st.integers(0, 50)), min_size=1, max_size=6), st.integers(0, 999))
def test_rows_keep_their_order_and_are_padded_on_the_right(rows: list[tuple[Encoding, int]], pad_id: int) -> None:
    """Row i of the batch is encoding i, then padding up to the longest."""
    encodings = [encoding for encoding, _ in rows]
    batch = collate(encodings, [task for _, task in rows], token_level=False, pad_id=pad_id)
    longest = max(len(encoding) for encoding in encodings)
    for row, encoding in enumerate(encodings):
        padding = longest - len(encoding)
        assert batch.input_ids[row].tolist() == [*encoding.input_ids, *[pad_id] * padding]
        assert batch.segment_ids[row].tolist() == [*encoding.segment_ids, *[0] * padding]
    assert batch.lengths.tolist() == [len(encoding) for encoding in encodings]
    assert batch.task_ids.tolist() == [task for _, task in rows]


def test_tensors_are_int64() -> None:
    """All four tensors are int64, as embeddings and gathers need."""
    batch = collate([Encoding((1, 2), (0, 1))], [0], token_level=False)
    tensors = (batch.input_ids, batch.segment_ids, batch.lengths, batch.task_ids)
    assert {tensor.dtype for tensor in tensors} == {torch.int64}


def test_no_rows_are_refused() -> None:
    """A batch without rows is refused."""
    with pytest.raises(ValueError, match="at least one row"):
        collate([], [], token_level=False)


@pytest.mark.parametrize("token_level", [True, False])
def test_moving_takes_everything_along(token_level: bool) -> None:
    """A batch that moves to a device takes all its tensors and its flag along."""
    batch = collate([Encoding((1, 2), (0, 1))], [3], token_level=token_level)
    moved = batch.to(torch.device("meta"))
    for name in ("input_ids", "segment_ids", "lengths", "task_ids"):
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).shape == getattr(batch, name).shape
    assert moved.token_level is token_level
