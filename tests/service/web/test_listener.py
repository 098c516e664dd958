"""Listening socket: options of the connections that it accepts, its backlog, and a want of descriptors."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from polytask.service.observability.logs import RecurringLine
from polytask.service.web import listener as listener_module
from polytask.service.web.listener import BACKLOG, Listener, listen


def test_responses_do_not_wait_for_acknowledgements() -> None:
    """Connections have TCP_NODELAY, also those that another process accepts on the same socket."""
    with listen("127.0.0.1", 0) as listener, Listener(socket.dup(listener.fileno())) as shared:
        for accepting in (listener, shared):
            with socket.create_connection(listener.getsockname()), accepting.accept()[0] as connection:
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_many_clients_may_come_at_once() -> None:
    """The backlog is large, and no event loop that shares the socket makes it smaller."""
    most = min(BACKLOG, int(Path("/proc/sys/net/core/somaxconn").read_text()))
    with listen("127.0.0.1", 0) as listener, Listener(socket.dup(listener.fileno())) as shared:
        shared.listen(1)
        information = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        # Of a socket that listens: tcpi_sacked, behind eight bytes and five numbers, is the backlog.
        assert struct.unpack_from("8B6I", information)[-1] == most


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Within this block the process can open nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        with contextlib.suppress(OSError):
            while True:  # fills the gaps below
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


def test_a_client_is_refused_where_no_descriptor_is_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a descriptor `accept` closes the connection, which the log says once; later ones are accepted again."""
    line = RecurringLine(logging.getLogger("polytask"), logging.WARNING, "%d connections were refused")
    monkeypatch.setattr(listener_module, "_refused", line)
    with listen("127.0.0.1", 0) as listener:
        clients = [socket.create_connection(listener.getsockname(), timeout=10) for _ in range(3)]
        with no_descriptors():
            for _ in clients[:2]:
                with pytest.raises(BlockingIOError):
                    listener.accept()
        listener.accept()[0].close()
        for client in clients:
            with client:
                assert client.recv(1) == b""
    assert [record.args for record in caplog.records if record.levelname == "WARNING"] == [(1,)]


def test_a_reserve_that_another_took_is_had_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """While another thread has the descriptor of the reserve, `accept` fails, and no descriptor of another is closed."""
    opened = os.open

    def taken_at_once(*_: object) -> int:
        raise OSError(errno.EMFILE, "taken by another thread")

    with listen("127.0.0.1", 0) as listener:
        clients = [socket.create_connection(listener.getsockname(), timeout=10) for _ in range(2)]
        with no_descriptors():
            monkeypatch.setattr(os, "open", taken_at_once)
            with pytest.raises(BlockingIOError):
                listener.accept()
            monkeypatch.setattr(os, "open", opened)
            others = os.open(os.devnull, os.O_RDONLY)
            try:
                with pytest.raises(OSError, match="Too many open files"):
                    listener.accept()
                os.fstat(others)
            finally:
                os.close(others)
        listener.accept()[0].close()
        for client in clients:
            client.close()
