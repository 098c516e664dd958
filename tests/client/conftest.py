"""Fixtures of the client's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.clients import Take, blocking, on_asyncio
from tests.service import checkpoints
from tests.service.processes import polytask_serve


@pytest.fixture(params=[blocking, on_asyncio])
def take(request: pytest.FixtureRequest) -> Take:
    """Uses a client of either kind on the service at an address."""
    chosen: Take = request.param
    return chosen


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `polytask serve` in a process of its own, with the tiny checkpoint."""
    store = tmp_path_factory.mktemp("store")
    checkpoints.saved(store)
    with polytask_serve("--store", str(store), "--model", "tiny", "--threads", "1") as url:
        yield url
