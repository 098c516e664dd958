"""The socket that clients connect to: opened once, and shared by all processes that answer on it."""

from __future__ import annotations

import logging
import socket
from typing import Any

from polytask.service.errors import StartupError

logger = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises StartupError where it cannot."""
    try:
        ((family, *_), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listener = socket.create_server((host, port), family=family)
        # For the connections, which inherit it; asyncio sets it for sockets of its own only. Else the second packet of a
        # response waits for the client to acknowledge the first, which takes it 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, UnicodeError) as error:
        raise StartupError(
            f"cannot listen on host {host!r}, port {port}: {error}; set POLYTASK_HOST to an address of this machine and "
            "POLYTASK_PORT to a free port, or to 0 for any"
        ) from error
    address = f"[{host}]" if ":" in host else host
    logger.info("listening on http://%s:%d", address, listener.getsockname()[1])
    return listener


class SharedListener(socket.socket):
    """A socket that listens already, inherited by its descriptor.

    An event loop accepts as many connections at a time as the backlog that it sets. Here that may be 1 without
    changing the backlog of the socket, so that a burst of clients spreads over the processes that share it.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(fileno=descriptor)

    def listen(self, *_: Any) -> None:
        """Does nothing: whoever opened the socket has done so."""
