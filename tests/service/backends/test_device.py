"""Device: the choice between CPU and GPU, and the memory in the metrics."""

from __future__ import annotations

import pytest
import torch

from polytask.service.backends.device import memory_of, pick_device
from polytask.service.errors import StartupError

CPU = torch.device("cpu")


def test_no_gpu_where_one_is_asked_for_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` takes the CPU if there is no GPU; `cuda` stops the start."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == CPU
    with pytest.raises(StartupError, match="POLYTASK_DEVICE is cuda"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cpu") == CPU


def test_the_memory_of_a_cpu_is_unknown() -> None:
    """On a CPU the operating system counts memory, so every state is 0."""
    name, read = memory_of("cpu")
    assert name == "cpu"
    assert set(read().values()) == {0}
