"""Fixtures of the service tests."""

from __future__ import annotations

import pytest

from polytask.model_store.load import Checkpoint
from tests.service.support import checkpoints


@pytest.fixture
def anyio_backend() -> str:
    """Tests that are coroutines run on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    """Version 1 of `tiny`."""
    return checkpoints.in_memory()
