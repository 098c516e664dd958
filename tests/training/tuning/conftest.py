"""A toy run with enough examples that some are kept for choices."""

from __future__ import annotations

import pytest

from tests.training.conftest import Workshop, build_workshop
from tests.training.support import toy


@pytest.fixture(scope="session")
def tuning_workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The toy run of all seven kinds, with 180 training examples a task, of which 18 are kept for choices."""
    folder = tmp_path_factory.mktemp("tuning")
    toy.write_backbone(folder / "backbone")
    toy.write_data(folder / "data", train=180)
    return build_workshop(folder)
