"""Shape buckets: the shapes for which a device records a forward, and the one to which a batch is padded.

They are few, as each takes memory and time at the start, but close enough: a batch is padded to the next multiple of 8
tokens, beyond 64 tokens by less than a quarter of its length, and to less than twice its rows. Small batches take a
device as long as larger ones, so that padding is free there; a batch of more than `most_tokens` is run unpadded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

ALIGNMENT = 8
"""Tokens. Attention kernels read masks whose rows are multiples of 16 bytes, and copy all others first."""

MOST_ROWS = 256
MOST_TOKENS = 8192
"""A forward of this many tokens keeps a large device busy for longer than its kernels take to launch."""

_STEPS_PER_DOUBLING = 4


class Bucket(NamedTuple):
    """A shape of batches."""

    num_rows: int
    length: int

    @property
    def num_tokens(self) -> int:
        """Tokens of the shape, padding included."""
        return self.num_rows * self.length


class Buckets:
    """All combinations of the numbers of rows and the lengths that have at most `most_tokens` tokens."""

    def __init__(self, rows: Iterable[int], lengths: Iterable[int], most_tokens: int = MOST_TOKENS) -> None:
        self._rows = sorted(rows)
        self._lengths = sorted(lengths)
        self._most_tokens = most_tokens

    @classmethod
    def up_to(cls, longest: int, most_rows: int = MOST_ROWS, most_tokens: int = MOST_TOKENS) -> Buckets:
        """Buckets for batches of at most `most_rows` rows of at most `longest` tokens."""
        return cls(_doubling(most_rows), _lengths(longest), most_tokens)

    @property
    def all(self) -> list[Bucket]:
        """Every bucket, the smallest first."""
        shapes = (Bucket(num_rows, length) for num_rows in self._rows for length in self._lengths)
        allowed = (bucket for bucket in shapes if bucket.num_tokens <= self._most_tokens)
        return sorted(allowed, key=lambda bucket: bucket.num_tokens)

    def fitting(self, num_rows: int, length: int) -> Bucket | None:
        """The smallest bucket that has room for a batch of that shape, or None."""
        row, column = bisect_left(self._rows, num_rows), bisect_left(self._lengths, length)
        if row == len(self._rows) or column == len(self._lengths):
            return None
        bucket = Bucket(self._rows[row], self._lengths[column])
        return bucket if bucket.num_tokens <= self._most_tokens else None

    def smallest_batch(self, bucket: Bucket) -> tuple[int, int]:
        """Number of rows and length of the smallest batch for which `fitting` returns the bucket."""
        row, column = self._rows.index(bucket.num_rows), self._lengths.index(bucket.length)
        return 1 + (self._rows[row - 1] if row else 0), 1 + (self._lengths[column - 1] if column else 0)


def aligned(length: int, longest: int) -> int:
    """The length to which rows of `length` tokens are padded without a bucket; never over `longest`."""
    return min(longest, -(-length // ALIGNMENT) * ALIGNMENT)


def _doubling(most: int) -> list[int]:
    return [*(1 << power for power in range((most - 1).bit_length())), most]


def _lengths(longest: int) -> list[int]:
    lengths = [ALIGNMENT]
    while lengths[-1] < longest:
        doubled = 1 << (lengths[-1].bit_length() - 1)
        lengths.append(lengths[-1] + max(ALIGNMENT, doubled // _STEPS_PER_DOUBLING))
    return [*lengths[:-1], longest]
