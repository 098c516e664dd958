"""Token estimate: how many tokens a request will have, from the bytes of its body and of similar ones before it.

Bodies count as similar if they have as many bytes to a factor of two: long ones are often cut. A body that was refused
for its estimate teaches nothing, so one of each size is tokenised every ten seconds, whatever its estimate is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

_DECAY = 0.99
"""Weight of all earlier requests when the next one is added."""

_FIRST_BYTES, _FIRST_TOKENS = 4000.0, 1000.0
"""Initial counts: English has about one token in four bytes."""

_TRIED_EVERY_S = 10.0


@dataclass(slots=True)
class _Size:
    """Bytes and tokens of bodies of one size, and when one of them was last tokenised whatever its estimate was."""

    num_bytes: float = _FIRST_BYTES
    num_tokens: float = _FIRST_TOKENS
    tried_at: float = -math.inf


class TokenEstimator:
    """Bytes per token, and the estimated tokens of requests that are being tokenised. Used on one event loop only."""

    def __init__(self) -> None:
        self.pending_tokens = 0
        self._sizes: defaultdict[int, _Size] = defaultdict(_Size)

    def estimate(self, num_bytes: int) -> int:
        """Estimated tokens of a body of `num_bytes`."""
        size = self._size(num_bytes)
        return int(num_bytes * size.num_tokens / size.num_bytes)

    def is_to_be_tried(self, num_bytes: int, now: float) -> bool:
        """Whether a body of `num_bytes` is to be tokenised whatever its estimate is. Asked once for each."""
        size = self._size(num_bytes)
        due = now - size.tried_at > _TRIED_EVERY_S
        if due:
            size.tried_at = now
        return due

    def add(self, num_tokens: int) -> None:
        """A request with an estimate of `num_tokens` is being tokenised."""
        self.pending_tokens += num_tokens

    def remove(self, num_tokens: int) -> None:
        """The request has been tokenised or has failed."""
        self.pending_tokens -= num_tokens

    def update(self, num_bytes: int, num_tokens: int) -> None:
        """A body of `num_bytes` had `num_tokens`."""
        size = self._size(num_bytes)
        size.num_bytes = _DECAY * size.num_bytes + num_bytes
        size.num_tokens = _DECAY * size.num_tokens + num_tokens

    def _size(self, num_bytes: int) -> _Size:
        return self._sizes[num_bytes.bit_length()]
