"""Fixtures of all tests, built by `tests/support/tiny.py`."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import hypothesis
import pytest
import tokenizers
import torch

from polytask.model.config import NetworkConfig
from polytask.model.network import Network
from polytask.model.tasks import Task
from tests.support import tiny
from tests.support.omissions import pytest_deselected, pytest_terminal_summary  # noqa: F401

# How long an example takes says nothing on a machine that does other things as well; the same examples every time.
hypothesis.settings.register_profile("polytask", deadline=None, derandomize=True)
hypothesis.settings.load_profile("polytask")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Limits torch to one thread: a tiny network is done before a second thread is awake."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


def _restored() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    threads, mkldnn = torch.get_num_threads(), torch.backends.mkldnn.enabled
    yield
    torch.set_num_threads(threads)
    torch.backends.mkldnn.enabled = mkldnn
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def untouched() -> Iterator[None]:
    """Restores signal handlers and torch's settings, which serving changes."""
    yield from _restored()


@pytest.fixture(scope="module")
def untouched_module() -> Iterator[None]:
    """Restores the same after the last test of a module whose fixtures serve."""
    yield from _restored()
