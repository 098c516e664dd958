"""Fixtures that all tests share. What they give is built in `tests/tiny.py`."""

from __future__ import annotations

import pytest
import tokenizers

from model.config import NetworkConfig
from model.network import Network
from model.tasks import Task
from tests import tiny


@pytest.fixture(scope="session")
def tiny_config() -> NetworkConfig:
    """Two layers of width 32 with every conditional module on."""
    return tiny.config()


@pytest.fixture(scope="session")
def tiny_tasks() -> tuple[Task, ...]:
    """One task of each of the seven kinds."""
    return tiny.tasks()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> tokenizers.Tokenizer:
    """A BERT-style tokenizer of letters and a few words."""
    return tiny.tokenizer()


@pytest.fixture
def tiny_network() -> Network:
    """A fresh network of `tiny_config` and `tiny_tasks`, in eval mode, in which conditioning matters."""
    return tiny.network()
