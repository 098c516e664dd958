"""Tests of training/splits.py."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.training.data.splits import hold_out, subsample


@given(st.lists(st.integers()), st.integers(1, 20) | st.none(), st.integers(0, 9))
def test_a_cap_only_leaves_out(items: list[int], cap: int | None, seed: int) -> None:
    """As many are kept as may be, in the order they came in; a larger cap keeps all that a smaller one does."""
    places = list(range(len(items)))
    kept = subsample(places, cap, seed)
    assert kept == sorted(set(kept))
    assert len(kept) == min(len(items), len(items) if cap is None else cap)
    if cap is not None:
        assert set(kept) <= set(subsample(places, cap + 1, seed))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.floats(0.01, 0.99))
def test_groups_are_held_out_whole(groups: list[int], share: float) -> None:
    """Every item is on one side, in order, no group is on both, and no more is held out than the share needs."""
    places = list(range(len(groups)))
    kept, held = hold_out(places, groups, share)
    assert (kept, held) == (sorted(kept), sorted(held))
    assert sorted(kept + held) == places
    assert not {groups[place] for place in kept} & {groups[place] for place in held}
    wanted = max(1, round(share * len(groups)))
    assert wanted <= len(held) < wanted + max(Counter(groups).values())


def test_the_draw_is_no_stretch_of_the_file() -> None:
    """Files are often sorted: what is held out comes from all over it."""
    _, held = hold_out(range(1000), range(1000), 0.1)
    assert len(held) == 100
    assert sum(held) / 100 == pytest.approx(500, abs=100)
