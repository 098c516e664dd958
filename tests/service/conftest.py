"""Fixtures of the service tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from model_store.load import Checkpoint
from tests.service import checkpoints


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The tiny network is done before a second thread is awake."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def anyio_backend() -> str:
    """Tests that are coroutines run on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    """Version 1 of `tiny`."""
    return checkpoints.in_memory()
