"""Fixtures of the store's tests, built by `support/stores.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polytask.model_store.manifest import Base
from polytask.model_store.save import save
from tests.model_store.support import stores
from tests.support import tiny


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The path of a store that does not exist yet."""
    return tmp_path / "store"


@pytest.fixture
def base(tmp_path: Path) -> Base:
    """The tiny network's backbone as a published one."""
    return stores.write_base(tmp_path / "base", tiny.network())


@pytest.fixture
def version(store: Path) -> Path:
    """A self-contained version of the tiny network, in float32."""
    return save(store, "demo", stores.contents(tiny.network()))


@pytest.fixture
def delta(store: Path, base: Base) -> Path:
    """A version of the fine-tuned tiny network as a delta in float16 over its published backbone."""
    return save(store, "delta", stores.contents(stores.fine_tuned(), base, torch.float16))
