"""Shutdown signals: those at which the service answers what it has accepted, and ends."""

from __future__ import annotations

import signal


def shutdown_signals() -> list[signal.Signals]:
    """SIGTERM, SIGINT, and the SIGHUP of a terminal that closes, unless it is ignored, as `nohup` wants it."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if ignored else [signal.SIGHUP])]
