"""Shutdown signals: which ones there are."""

from __future__ import annotations

import signal

import pytest

from polytask.service.config.shutdown_signals import shutdown_signals


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(("handler", "counts"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_hangup_counts_unless_it_is_ignored(handler: signal.Handlers, counts: bool) -> None:
    """SIGHUP ends the service, but not one that `nohup` has started."""
    signal.signal(signal.SIGHUP, handler)
    assert (signal.SIGHUP in shutdown_signals()) is counts
    assert {signal.SIGTERM, signal.SIGINT} <= set(shutdown_signals())
