"""Token estimate: how many tokens a request will have, from its size and from the requests that have been tokenised."""

from __future__ import annotations

_DECAY = 0.99
"""Weight of all earlier requests when the next one is added."""

_FIRST_BYTES, _FIRST_TOKENS = 4000.0, 1000.0
"""Initial counts: English has about one token in four bytes."""


class TokenEstimator:
    """Bytes per token, and the estimated tokens of requests that are being tokenised. Used on one event loop only."""

    def __init__(self) -> None:
        self.pending_tokens = 0
        self._bytes = _FIRST_BYTES
        self._tokens = _FIRST_TOKENS

    def estimate(self, num_bytes: int) -> int:
        """Estimated tokens of a body of `num_bytes`."""
        return int(num_bytes * self._tokens / self._bytes)

    def add(self, num_tokens: int) -> None:
        """A request with an estimate of `num_tokens` is being tokenised."""
        self.pending_tokens += num_tokens

    def remove(self, num_tokens: int) -> None:
        """The request has been tokenised or has failed."""
        self.pending_tokens -= num_tokens

    def update(self, num_bytes: int, num_tokens: int) -> None:
        """A body of `num_bytes` had `num_tokens`."""
        self._bytes = _DECAY * self._bytes + num_bytes
        self._tokens = _DECAY * self._tokens + num_tokens
