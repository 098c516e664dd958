"""How many tokens a request will have, from its size: known before it is tokenised, and from those that have been."""

from __future__ import annotations

_MEMORY = 0.99
"""What the experience so far counts for beside the next request."""

_FIRST_BYTES, _FIRST_TOKENS = 4000.0, 1000.0
"""Experience to begin with: English has a token in four bytes or so."""


class TokenEstimator:
    """The tokens of requests that are being tokenised, as far as can be known. Not thread-safe: for one event loop."""

    def __init__(self) -> None:
        self.pending_tokens = 0
        self._bytes = _FIRST_BYTES
        self._tokens = _FIRST_TOKENS

    def estimate(self, num_bytes: int) -> int:
        """The tokens of a body of so many bytes."""
        return int(num_bytes * self._tokens / self._bytes)

    def add(self, num_tokens: int) -> None:
        """A request of which so many are expected is now being tokenised."""
        self.pending_tokens += num_tokens

    def remove(self, num_tokens: int) -> None:
        """It is no longer, whatever became of it."""
        self.pending_tokens -= num_tokens

    def update(self, num_bytes: int, num_tokens: int) -> None:
        """A body of so many bytes had so many tokens."""
        self._bytes = _MEMORY * self._bytes + num_bytes
        self._tokens = _MEMORY * self._tokens + num_tokens
