"""Stop signal: work ends at its deadline, or for the reason that it is given."""

from __future__ import annotations

import time

import pytest

from polytask.service.errors import ClientGone, DeadlineExceeded
from polytask.service.prediction.stop_signal import StopSignal


def test_work_goes_on_until_it_is_stopped() -> None:
    """Before the deadline a check passes; after `stop` each one raises the reason."""
    signal = StopSignal(time.monotonic() + 60)
    signal.check()
    signal.stop(ClientGone("nobody waits"))
    for _ in range(2):
        with pytest.raises(ClientGone):
            signal.check()


def test_work_stops_at_the_deadline() -> None:
    """From its deadline on a check raises, whether or not anybody has called `stop`."""
    with pytest.raises(DeadlineExceeded):
        StopSignal(time.monotonic()).check()
