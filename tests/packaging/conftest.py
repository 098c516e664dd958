"""The wheels of both distributions, built once, and an environment that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.packaging.support import distributions


@dataclass(frozen=True)
class Wheels:
    """The wheels `polytask` and `polytask-client`."""

    polytask: Path
    client: Path


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    """Built from what a fresh clone would hold."""
    folder = tmp_path_factory.mktemp("wheels")
    sources = folder / "sources"
    distributions.copy_sources(sources)
    return Wheels(
        distributions.build(sources, folder / "polytask"),
        distributions.build(sources / "polytask_client", folder / "client"),
    )


@pytest.fixture(scope="session")
def scripts(wheels: Wheels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `python` and `polytask` in an environment with both wheels."""
    return distributions.environment(tmp_path_factory.mktemp("installed") / "venv", wheels.polytask, wheels.client)
