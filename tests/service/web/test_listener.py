"""Listening socket: options of the connections that it accepts."""

from __future__ import annotations

import socket

from polytask.service.web.listener import SharedListener, listen


def test_responses_do_not_wait_for_acknowledgements() -> None:
    """Connections have TCP_NODELAY, also those that another process accepts on the same socket."""
    with listen("127.0.0.1", 0) as listener, SharedListener(socket.dup(listener.fileno())) as shared:
        for accepting in (listener, shared):
            with socket.create_connection(listener.getsockname()), accepting.accept()[0] as connection:
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
