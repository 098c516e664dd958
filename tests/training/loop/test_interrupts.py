"""Interrupts: signals are recorded within the handler's block and only there."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

import pytest

from polytask.training.loop.interrupts import InterruptHandler


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_recorded(number: signal.Signals) -> None:
    """A signal does not interrupt the block; the handler says which one came."""
    with InterruptHandler() as interrupts:
        assert interrupts.received is None
        os.kill(os.getpid(), number)
        assert interrupts.received == number


def test_the_third_signal_ends_at_once() -> None:
    """The third signal raises KeyboardInterrupt at once."""
    with InterruptHandler():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_after_the_block_the_former_handlers_are_back() -> None:
    """After the block the former signal handlers are back, also if it failed."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with suppress(ValueError), InterruptHandler():
        assert signal.getsignal(signal.SIGTERM) not in before
        raise ValueError
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_thread_leaves_signals_alone() -> None:
    """In a thread other than the main one no signal handler changes."""
    found = []

    def run() -> None:
        with InterruptHandler() as signals:
            found.append((signal.getsignal(signal.SIGTERM), signals.received))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(signal.getsignal(signal.SIGTERM), None)]
