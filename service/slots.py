"""Which processes a deployment consists of: what each of them runs, sees, and is told."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from service.cores import available_cores
from service.errors import StartupError
from service.lives import Lives
from service.settings import PREFIX, Settings


@dataclass(slots=True)
class Slot:
    """A process that is to be there: its module, arguments and variables, and its present life."""

    name: str
    module: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    descriptors: tuple[int, ...] = ()
    lives: Lives = field(default_factory=Lives)
    process: asyncio.subprocess.Process | None = None


def engine_slots(settings: Settings, folder: Path, module: str) -> list[Slot]:
    """A slot for each engine, which sees no device but its own. Those on the CPU share its cores."""
    on_cpu = sum(device != "cuda" and not device.isdigit() for device in settings.engines)
    threads = settings.threads or max(1, available_cores() // max(1, on_cpu))
    slots = []
    for number, entry in enumerate(settings.engines):
        device = "cuda" if entry.isdigit() else entry
        own = replace(settings, device=device, devices="", threads=threads).to_environment()
        if entry.isdigit():
            own["CUDA_VISIBLE_DEVICES"] = _visible(int(entry))
        slots.append(Slot(f"engine-{number}", module, (str(folder), str(number)), own))
    return slots


def frontend_slots(settings: Settings, folder: Path, listener: socket.socket) -> list[Slot]:
    """A slot for each frontend, all with the same socket."""
    # One thread: numpy would start one a core for products that a frontend never makes.
    own = {**settings.to_environment(), "OMP_NUM_THREADS": "1"}
    descriptor = listener.fileno()
    return [
        Slot(f"frontend-{number}", "service.frontend", (str(folder), str(number), str(descriptor)), own, (descriptor,))
        for number in range(settings.num_frontends)
    ]


def _visible(ordinal: int) -> str:
    """The device as CUDA_VISIBLE_DEVICES names it, among those that this process may see."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return str(ordinal)
    devices = [device.strip() for device in allowed.split(",") if device.strip()]
    if ordinal >= len(devices):
        raise StartupError(
            f"POLYTASK_DEVICES has {ordinal}, but CUDA_VISIBLE_DEVICES ({allowed}) leaves devices 0 to {len(devices) - 1}"
            if devices
            else f"POLYTASK_DEVICES has {ordinal}, but CUDA_VISIBLE_DEVICES leaves no device"
        )
    return devices[ordinal]


def environment(slot: Slot) -> dict[str, str]:
    """The variables of a process: those of this one, but for settings, which are the slot's."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
    return inherited | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)} | slot.environment
