"""Device: which one to run on, and the memory that this process uses there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch

from polytask.service.errors import StartupError

Memory = Callable[[], Mapping[str, int]]
"""Bytes by state: `allocated` to tensors, `reserved` by torch for them, `total` on the device. 0 where unknown."""


def memory_of(device: str) -> tuple[str, Memory]:
    """The name of the device `cpu` or `cuda` of this process, and a function that reads its memory; unknown for a CPU."""
    if device != "cuda":
        return device, lambda: {"allocated": 0, "reserved": 0, "total": 0}
    total = torch.cuda.get_device_properties(0).total_memory

    def read() -> dict[str, int]:
        # The whole tree at once: torch's functions for single numbers fetch and flatten it each time.
        stats = torch.cuda.memory_stats_as_nested_dict()
        states = {state: stats.get(f"{state}_bytes", {}).get("all", {}) for state in ("allocated", "reserved")}
        return {state: numbers.get("current", 0) for state, numbers in states.items()} | {"total": total}

    # An engine sees only its own device, as number 0; the supervisor has set the real number.
    number = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return f"cuda:{number}", read


def pick_device(name: str) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`. Raises StartupError if this machine has no such device."""
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise StartupError(
            "POLYTASK_DEVICE is cuda, but torch finds no usable GPU; set it to auto or cpu, or install a CUDA build"
        )
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")
