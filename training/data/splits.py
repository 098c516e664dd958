"""Splits: random choice of the examples to train on and to hold out, the same in every run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def subsample(items: Sequence[Item], cap: int | None, seed: int) -> list[Item]:
    """At most `cap` of the items: the first ones of a shuffled order, in their original order."""
    order = list(range(len(items)))
    random.Random(seed).shuffle(order)  # noqa: S311 - sampling, not cryptography
    return [items[index] for index in sorted(order[:cap])]


def hold_out(items: Sequence[Item], groups: Sequence[Hashable], share: float) -> tuple[list[Item], list[Item]]:
    """The items to train on and those held out, in their original order. `groups[i]`: the group of `items[i]`.

    Whole groups are drawn until at least `share` of the items, and at least one, is held out. The draw depends on
    the groups only, so that runs with different seeds are measured on the same examples.
    """
    sizes = Counter(groups)
    order = list(sizes)
    random.Random(0).shuffle(order)  # noqa: S311 - sampling, not cryptography
    num_missing = max(1, round(share * len(items)))
    held_out = set()
    while num_missing > 0:
        group = order.pop()
        held_out.add(group)
        num_missing -= sizes[group]
    kept = [item for item, group in zip(items, groups, strict=True) if group not in held_out]
    return kept, [item for item, group in zip(items, groups, strict=True) if group in held_out]
