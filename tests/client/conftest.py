"""Fixtures of the client's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from polytask.service.config.api_keys import new_key
from tests.client.support.clients import Take, blocking, on_asyncio
from tests.service.support import checkpoints
from tests.service.support.processes import polytask_serve


@pytest.fixture(params=[blocking, on_asyncio])
def take(request: pytest.FixtureRequest) -> Take:
    """Uses a client of either kind with the service at an address."""
    chosen: Take = request.param
    return chosen


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `polytask serve` in a process of its own, with the tiny checkpoint."""
    with polytask_serve("--store", saved(tmp_path_factory), "--model", "tiny", "--threads", "1") as url:
        yield url


@pytest.fixture(scope="session")
def service_with_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a second service, which requires a key, and a valid key."""
    key, line = new_key("tests", admin=False)
    with polytask_serve(
        "--store", saved(tmp_path_factory), "--model", "tiny", "--threads", "1", "--api-keys", line
    ) as url:
        yield url, key


def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with the tiny checkpoint."""
    store = tmp_path_factory.mktemp("store")
    checkpoints.saved(store)
    return str(store)
