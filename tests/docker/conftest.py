"""The images, built once for all tests."""

from __future__ import annotations

import pytest

from tests.docker.support.engine import build


@pytest.fixture(scope="session")
def service_image() -> str:
    """The image of the service."""
    build("polytask:test", "docker/service.Dockerfile")
    return "polytask:test"


@pytest.fixture(scope="session")
def training_image() -> str:
    """The image for training."""
    build("polytask-training:test", "docker/training.Dockerfile")
    return "polytask-training:test"
