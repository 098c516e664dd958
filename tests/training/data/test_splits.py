"""Splits: caps and held-out groups."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.training.data.splits import hold_out, subsample


@given(st.lists(st.integers()), st.integers(1, 20) | st.none(), st.integers(0, 9))
def test_a_cap_only_leaves_out(items: list[int], cap: int | None, seed: int) -> None:
    """A cap keeps that many items in their order, and a larger cap keeps all items of a smaller one."""
    indices = list(range(len(items)))
    kept = subsample(indices, cap, seed)
    assert kept == sorted(set(kept))
    assert len(kept) == min(len(items), len(items) if cap is None else cap)
    if cap is not None:
        assert set(kept) <= set(subsample(indices, cap + 1, seed))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.floats(0.01, 0.99))
def test_groups_are_held_out_whole(groups: list[int], share: float) -> None:
    """Every item is on one side, in order, no group is on both, and no more groups are held out than needed."""
    indices = list(range(len(groups)))
    kept, held = hold_out(indices, groups, share)
    assert (kept, held) == (sorted(kept), sorted(held))
    assert sorted(kept + held) == indices
    assert not {groups[index] for index in kept} & {groups[index] for index in held}
    wanted = max(1, round(share * len(groups)))
    assert wanted <= len(held) < wanted + max(Counter(groups).values())


def test_held_out_items_come_from_the_whole_file() -> None:
    """Held-out items come from the whole file, because files are often sorted."""
    _, held = hold_out(range(1000), range(1000), 0.1)
    assert len(held) == 100
    assert sum(held) / 100 == pytest.approx(500, abs=100)
