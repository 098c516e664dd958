"""Splits: random choice of the examples to train on and to hold out, the same in every run."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Item = TypeVar("Item")


def subsample(items: Sequence[Item], cap: int | None, seed: int) -> list[Item]:
    """At most `cap` of the items: the first ones of a shuffled order, in their original order."""
    return [items[index] for index in sorted(shuffled(len(items), seed)[:cap])]


def shuffled(count: int, seed: int = 0) -> list[int]:
    """The numbers from 0 to before `count` in a random order."""
    order = list(range(count))
    random.Random(seed).shuffle(order)  # noqa: S311 - sampling, not cryptography
    return order


def connected(keys: Sequence[Iterable[Hashable]]) -> list[int]:
    """A number for each item, the same for items that share one of their keys, directly or over others."""
    ids: dict[Hashable, int] = {}
    pairs = [(item, ids.setdefault(key, len(ids))) for item, item_keys in enumerate(keys) for key in item_keys]
    if not pairs:
        return list(range(len(keys)))
    items, key_ids = np.array(pairs).T
    size = len(keys) + len(ids)
    edges = coo_matrix((np.ones(len(pairs), dtype=bool), (items, len(keys) + key_ids)), shape=(size, size))
    return [int(component) for component in connected_components(edges, directed=False)[1][: len(keys)]]


def hold_out(groups: Sequence[Hashable], strata: Sequence[Hashable], share: float) -> list[bool]:
    """Whether each item is held out.

    `groups[i]`: the group of item i; groups stay whole. `strata[i]`: its stratum, such as its label; about the same
    share of each is held out, and of none the last group. In all about `share` of the items is held out, and at least one
    group if there are two. The choice does not depend on a run's seed, so runs with different seeds are measured on the
    same items.
    """
    members = defaultdict[Hashable, list[int]](list)
    for index, group in enumerate(groups):
        members[group].append(index)
    order = list(members)
    random.Random(0).shuffle(order)  # noqa: S311 - sampling, not cryptography
    by_stratum = defaultdict[Hashable, list[Hashable]](list)
    for group in order:
        by_stratum[Counter(strata[index] for index in members[group]).most_common(1)[0][0]].append(group)
    held_out, owed = set[Hashable](), 0.0
    for candidates in by_stratum.values():
        num_left = len(candidates)
        for group in candidates:  # what one stratum owes or has too much is carried over to the next
            size = len(members[group])
            owed += share * size
            if owed >= size / 2:
                owed -= size
                if num_left > 1:
                    held_out.add(group)
                    num_left -= 1
    if not held_out and len(order) > 1:
        largest = max(by_stratum.values(), key=len)
        held_out.add(min(largest, key=lambda group: len(members[group])))
    return [group in held_out for group in groups]
