"""What this process holds of the memory of its device, for the metrics."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch

from polytask.service.errors import StartupError

Memory = Callable[[], Mapping[str, int]]
"""Bytes by state: `allocated` to tensors, `reserved` by torch for them, and `total` on the device; 0 where unknown."""


def memory_of(device: str) -> tuple[str, Memory]:
    """The name of this process's `cpu` or `cuda`, and how to read its memory. On a CPU the system counts, not torch."""
    if device != "cuda":
        return device, lambda: {"allocated": 0, "reserved": 0, "total": 0}
    total = torch.cuda.get_device_properties(0).total_memory

    def read() -> dict[str, int]:
        # The whole tree at once: torch's functions for single numbers fetch it each time and flatten it.
        held = torch.cuda.memory_stats_as_nested_dict()
        states = {state: held.get(f"{state}_bytes", {}).get("all", {}) for state in ("allocated", "reserved")}
        return {state: found.get("current", 0) for state, found in states.items()} | {"total": total}

    # Engines of several devices see one each: the number that the supervisor gave it tells them apart.
    number = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return f"cuda:{number}", read


def pick_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means here. Raises StartupError where there is no such device."""
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise StartupError(
            "POLYTASK_DEVICE is cuda, but torch finds no usable GPU; set it to auto or cpu, or install a CUDA build"
        )
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")
