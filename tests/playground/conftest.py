"""Fixtures of the browser tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.playground.support.browsing import chromium, opened
from tests.service.support import checkpoints
from tests.service.support.gated_service import Process, process


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the tiny checkpoint."""
    folder = tmp_path_factory.mktemp("store")
    checkpoints.saved(folder)
    return folder


@pytest.fixture(scope="package")
def service(store: Path) -> Iterator[Process]:
    """A service of the tiny checkpoint, which has a task of every kind."""
    with process(store) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser, closed at the end of a module, because no event loop can run beside it."""
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser, service: Process) -> Iterator[Page]:
    """The playground at the size of a laptop screen."""
    with opened(browser, str(service.client.base_url)) as shown:
        yield shown
