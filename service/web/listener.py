"""Listening socket: opened once and shared by all processes that serve it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from typing import Any

from polytask.service.errors import StartupError
from polytask.service.observability.logs import RecurringLine

logger = logging.getLogger(__name__)

BACKLOG = 2048
"""How many connections the kernel keeps until they are accepted."""

_SHORTAGES = {errno.EMFILE, errno.ENFILE}

_refused = RecurringLine(
    logger, logging.WARNING, "%d connections were refused since the last such line: there is no file descriptor left"
)


def listen(host: str, port: int) -> Listener:
    """A socket that listens on the address. Raises StartupError if that fails."""
    try:
        ((family, *_), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listener = Listener(socket.create_server((host, port), family=family, backlog=BACKLOG).detach())
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


class Listener(socket.socket):
    """A socket that listens already, made of its descriptor.

    A descriptor in reserve lets it refuse connections when the process can open none: asyncio would log an error for
    each, up to thousands a second, and accept nothing for a second.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(fileno=descriptor)
        self._reserve: int | None = os.open(os.devnull, os.O_RDONLY)

    def listen(self, *_: Any) -> None:
        """Does nothing. An event loop accepts as many connections at a time as the backlog that it passes here."""

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection. Raises BlockingIOError where there is none, or none can be opened."""
        try:
            if self._reserve is None:
                self._reserve = os.open(os.devnull, os.O_RDONLY)
            return super().accept()
        except OSError as error:
            # Without the reserve, which another thread may have taken, the event loop waits a second.
            if error.errno not in _SHORTAGES or self._reserve is None:
                raise
        self._close_reserve()
        with contextlib.suppress(OSError):
            super().accept()[0].close()
        with contextlib.suppress(OSError):
            self._reserve = os.open(os.devnull, os.O_RDONLY)
        _refused.count()
        raise BlockingIOError

    def close(self) -> None:
        """Closes the socket."""
        self._close_reserve()
        super().close()

    def _close_reserve(self) -> None:
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
