"""Tests of training/stopping.py."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

import pytest

from polytask.training.loop.interrupts import InterruptHandler


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted(number: signal.Signals) -> None:
    """A signal does not interrupt the block; the handler says which one came."""
    with InterruptHandler() as interrupts:
        assert interrupts.received is None
        os.kill(os.getpid(), number)
        assert interrupts.received == number


def test_the_third_signal_ends_at_once() -> None:
    """Who asks three times does not want to wait for the step."""
    with InterruptHandler():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_block_signals_do_what_they_did() -> None:
    """The handlers of before are back after the block, also when it fails."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with suppress(ValueError), InterruptHandler():
        assert signal.getsignal(signal.SIGTERM) not in before
        raise ValueError
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_thread_leaves_signals_alone() -> None:
    """A run in a thread that is not the main one changes no handler."""
    found = []

    def run() -> None:
        with InterruptHandler() as signals:
            found.append((signal.getsignal(signal.SIGTERM), signals.received))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(signal.getsignal(signal.SIGTERM), None)]
