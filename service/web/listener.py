"""Listening socket: opened once and shared by all processes that serve it."""

from __future__ import annotations

import logging
import socket
from typing import Any

from polytask.service.errors import StartupError

logger = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on the address. Raises StartupError if that fails."""
    try:
        ((family, *_), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listener = socket.create_server((host, port), family=family)
        # Connections inherit TCP_NODELAY; asyncio sets it only for sockets that it opens itself. Without it the second
        # packet of a response waits up to 40 ms for the acknowledgement of the first.
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
    """An inherited socket that listens already.

    An event loop accepts as many connections at a time as the backlog that it passes to `listen`. Frontends pass 1, so
    that a burst of clients spreads over them, while the backlog of the socket itself stays large.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(fileno=descriptor)

    def listen(self, *_: Any) -> None:
        """Does nothing: the socket listens already."""
