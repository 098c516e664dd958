"""Fixtures of the service tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from polytask.model_store.load import Checkpoint
from tests.service.support import checkpoints


@pytest.fixture
def anyio_backend() -> str:
    """Tests that are coroutines run on asyncio."""
    return "asyncio"


@pytest.fixture
def hangup_ends() -> Iterator[None]:
    """SIGHUP ends what the test starts, also where the tests themselves run under `nohup`, whose children ignore it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    """Version 1 of `tiny`."""
    return checkpoints.in_memory()
