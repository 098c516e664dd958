"""Splits: caps and held-out groups."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.training.data.splits import connected, hold_out, subsample


@given(st.lists(st.integers()), st.integers(1, 20) | st.none(), st.integers(0, 9))
def test_a_cap_only_leaves_out(items: list[int], cap: int | None, seed: int) -> None:
    """A cap keeps that many items in their order, and a larger cap keeps all items of a smaller one."""
    indices = list(range(len(items)))
    kept = subsample(indices, cap, seed)
    assert kept == sorted(set(kept))
    assert len(kept) == min(len(items), len(items) if cap is None else cap)
    if cap is not None:
        assert set(kept) <= set(subsample(indices, cap + 1, seed))


def _sides(items: Sequence[int], held_out: Sequence[bool]) -> tuple[list[int], list[int]]:
    """The items that are trained on, and those held out."""
    pairs = list(zip(items, held_out, strict=True))
    return [item for item, is_held in pairs if not is_held], [item for item, is_held in pairs if is_held]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=40), st.floats(0.01, 0.99))
def test_groups_are_held_out_whole(places: list[tuple[int, int]], share: float) -> None:
    """No group is on both sides, something is trained on, and something is held out unless all is one group."""
    groups, strata = [group for group, _ in places], [stratum for _, stratum in places]
    indices = list(range(len(groups)))
    kept, held = _sides(indices, hold_out(groups, strata, share))
    assert not {groups[index] for index in kept} & {groups[index] for index in held}
    assert kept
    assert bool(held) == (len(set(groups)) > 1)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.floats(0.05, 0.5))
def test_labels_are_equally_frequent_on_both_sides(labels: list[int], share: float) -> None:
    """The share of every label that is held out is right to two items, and each that is there twice is trained on."""
    kept, held = _sides(labels, hold_out(range(len(labels)), labels, share))
    assert set(kept) >= {label for label in labels if labels.count(label) > 1}
    for label in set(labels):
        assert abs(held.count(label) - share * labels.count(label)) < 2


@given(st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=20))
def test_items_with_a_common_key_are_connected(keys: list[list[int]]) -> None:
    """Two items have the same number exactly if a chain of items with common keys leads from one to the other."""
    reached = [{index} for index in range(len(keys))]
    for _ in keys:
        for one, two in product(range(len(keys)), repeat=2):
            if reached[one] & reached[two] or set(keys[one]) & set(keys[two]):
                reached[one] = reached[two] = reached[one] | reached[two]
    numbers = connected(keys)
    for one, two in product(range(len(keys)), repeat=2):
        assert (numbers[one] == numbers[two]) == (two in reached[one])


def test_held_out_items_come_from_the_whole_file() -> None:
    """Held-out items come from the whole file, because files are often sorted."""
    _, held = _sides(range(1000), hold_out(range(1000), [0] * 1000, 0.1))
    assert len(held) == 100
    assert sum(held) / 100 == pytest.approx(500, abs=100)
