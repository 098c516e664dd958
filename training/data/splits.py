"""Which examples are trained on and which are held out: drawn with a seed of their own, the same in every run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def subsample(items: Sequence[Item], cap: int | None, seed: int) -> list[Item]:
    """At most `cap` of the items: the first ones of a shuffled order, given back in the order they came in."""
    order = list(range(len(items)))
    random.Random(seed).shuffle(order)  # noqa: S311 - sampling, not cryptography
    return [items[place] for place in sorted(order[:cap])]


def hold_out(items: Sequence[Item], groups: Sequence[Hashable], share: float) -> tuple[list[Item], list[Item]]:
    """The items to train on and those held out, each in the order they came in; `groups[i]` is the group of `items[i]`.

    Whole groups are drawn until at least `share` of the items, and at least one, is held out. The draw depends on
    nothing but the groups, so that other seeds of the training are measured on the same examples.
    """
    sizes = Counter(groups)
    order = list(sizes)
    random.Random(0).shuffle(order)  # noqa: S311 - sampling, not cryptography
    left = max(1, round(share * len(items)))
    held = set()
    while left > 0:
        group = order.pop()
        held.add(group)
        left -= sizes[group]
    kept = [item for item, group in zip(items, groups, strict=True) if group not in held]
    return kept, [item for item, group in zip(items, groups, strict=True) if group in held]
