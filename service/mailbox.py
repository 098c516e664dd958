"""What other threads have for an event loop: handed over in one go, however much has come since the loop last looked."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Items for `deliver`, which is called on the loop with all that are there, in the order in which they came.

    To wake a loop is a system call; what comes while it is being woken needs none.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[list[Item]], None]) -> None:
        self.loop = loop
        self._deliver = deliver
        self._items: deque[Item] = deque()
        self._waking = False

    def put(self, item: Item) -> None:
        """From any thread. After the loop was closed nothing is delivered."""
        self._items.append(item)
        if not self._waking:
            self._waking = True
            # Whoever closes a loop wants nothing that is still to come.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._empty)

    def _empty(self) -> None:
        # First: an item that comes from here on wakes the loop again.
        self._waking = False
        items = [self._items.popleft() for _ in range(len(self._items))]
        self._deliver(items)
