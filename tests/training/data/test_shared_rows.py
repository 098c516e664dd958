"""Shared rows: examples in less memory."""

from __future__ import annotations

from polytask.model.encoding import Encoding
from polytask.training.data.examples import EncodedExample
from polytask.training.data.shared_rows import SharedRows


def test_equal_parts_are_one_object() -> None:
    """Shrunk examples train as before, and share token ids, segments and positions that are equal."""
    rows = SharedRows()
    ids = [tuple(int(text) for text in ("101", "5000", "102")) for _ in range(2)]
    examples = [
        EncodedExample(3, (Encoding(own, (0, 0, int("0")), 1, (int("300"),), ((0, 4),)),), 2, 0.5) for own in ids
    ]
    one, other = map(rows.shrink, examples)
    assert (one.task_id, one.target, one.weight) == (3, 2, 0.5)
    (row,), (twin,) = one.encodings, other.encodings
    assert (row.input_ids, row.segment_ids, row.dropped_tokens, row.positions) == (ids[0], (0, 0, 0), 1, (300,))
    assert row.input_ids[1] is twin.input_ids[1]
    assert row.segment_ids is twin.segment_ids
    assert row.positions is twin.positions
