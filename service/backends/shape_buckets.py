"""The shapes for which a device has a recorded forward, and which of them a batch is padded to.

Few shapes, as each takes memory and a moment of the start, but close enough: a batch is padded to the next multiple of 8
tokens, beyond 64 tokens by less than a quarter of its length, and to less than twice its rows. Small batches take a
device as long as larger ones, so that padding is free there; beyond `most_tokens` it is not, and such a batch is run as it
comes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

ALIGNMENT = 8
"""Tokens: attention kernels read masks whose rows are whole multiples of 16 bytes, and copy all others first."""

MOST_ROWS = 256
MOST_TOKENS = 8192
"""A forward of so many keeps a large device busy for longer than its kernels take to launch."""

_STEPS_PER_DOUBLING = 4


class Bucket(NamedTuple):
    """A shape of batches."""

    num_rows: int
    length: int

    @property
    def num_tokens(self) -> int:
        """Padding included."""
        return self.num_rows * self.length


class Buckets:
    """All buckets of some numbers of rows and some lengths that have no more than `most_tokens` tokens."""

    def __init__(self, rows: Iterable[int], lengths: Iterable[int], most_tokens: int = MOST_TOKENS) -> None:
        self._rows = sorted(rows)
        self._lengths = sorted(lengths)
        self._most_tokens = most_tokens

    @classmethod
    def up_to(cls, longest: int, most_rows: int = MOST_ROWS, most_tokens: int = MOST_TOKENS) -> Buckets:
        """Those for batches of at most so many rows, the longest of them of `longest` tokens."""
        return cls(_doubling(most_rows), _lengths(longest), most_tokens)

    @property
    def all(self) -> list[Bucket]:
        """Every bucket, the smallest first."""
        found = (Bucket(num_rows, length) for num_rows in self._rows for length in self._lengths)
        return sorted((one for one in found if one.num_tokens <= self._most_tokens), key=lambda one: one.num_tokens)

    def of(self, num_rows: int, length: int) -> Bucket | None:
        """The smallest bucket that has room for a batch of that shape, if there is one."""
        row, column = bisect_left(self._rows, num_rows), bisect_left(self._lengths, length)
        if row == len(self._rows) or column == len(self._lengths):
            return None
        bucket = Bucket(self._rows[row], self._lengths[column])
        return bucket if bucket.num_tokens <= self._most_tokens else None

    def least(self, bucket: Bucket) -> tuple[int, int]:
        """Rows and length of the smallest batch that goes to a bucket of these."""
        row, column = self._rows.index(bucket.num_rows), self._lengths.index(bucket.length)
        return 1 + (self._rows[row - 1] if row else 0), 1 + (self._lengths[column - 1] if column else 0)


def aligned(length: int, longest: int) -> int:
    """The length that rows of `length` tokens are padded to where there is no bucket; never over `longest`."""
    return min(longest, -(-length // ALIGNMENT) * ALIGNMENT)


def _doubling(most: int) -> list[int]:
    return [*(1 << power for power in range((most - 1).bit_length())), most]


def _lengths(longest: int) -> list[int]:
    lengths = [ALIGNMENT]
    while lengths[-1] < longest:
        doubled = 1 << (lengths[-1].bit_length() - 1)
        lengths.append(lengths[-1] + max(ALIGNMENT, doubled // _STEPS_PER_DOUBLING))
    return [*lengths[:-1], longest]
