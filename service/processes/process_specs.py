"""When to start a process again that has died: soon, later each time, and not at all if it never gets ready."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from polytask.service.config.cpu_cores import available_cores
from polytask.service.config.settings import PREFIX, Settings, env_name
from polytask.service.errors import StartupError

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 30.0

_LONG_LIFE_S = 60.0
"""A process that lived that long has worked: its death is not counted together with the one before."""


_MOST_FAILED = 5
"""Lives in a row without ever being ready after which another one is no use."""


@dataclass(slots=True)
class RestartPolicy:
    """The lives of one process so far. `num_failed`: in a row that have ended before it was ready."""

    was_ready: bool = False
    num_failed: int = 0
    num_quick_failures: int = 0

    def next_delay_s(self, *, ready: bool, lived_s: float) -> float | None:
        """The seconds until the next life begins; None if there is to be none. `ready`: whether this one was."""
        self.num_failed = 0 if ready else self.num_failed + 1
        if self.num_failed == _MOST_FAILED:
            return None
        self.num_quick_failures = 0 if ready and lived_s >= _LONG_LIFE_S else self.num_quick_failures + 1
        return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** max(0, self.num_quick_failures - 1))


@dataclass(slots=True)
class ProcessSpec:
    """A process that is to be there: its module, arguments and variables, and its present life."""

    name: str
    module: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    descriptors: tuple[int, ...] = ()
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    process: asyncio.subprocess.Process | None = None


def engine_specs(settings: Settings, folder: Path, module: str) -> list[ProcessSpec]:
    """A spec for each engine, which sees no device but its own. Those on the CPU share its cores."""
    on_cpu = sum(device != "cuda" and not device.isdigit() for device in settings.engine_devices)
    threads = settings.threads or max(1, available_cores() // max(1, on_cpu))
    specs = []
    for number, entry in enumerate(settings.engine_devices):
        own = replace(settings, devices="", threads=threads).to_environment()
        own[env_name("device")] = "cuda" if entry.isdigit() else entry
        if entry.isdigit():
            own["CUDA_VISIBLE_DEVICES"] = _visible(int(entry))
        specs.append(ProcessSpec(f"engine-{number}", module, (str(folder), str(number)), own))
    return specs


def frontend_specs(settings: Settings, folder: Path, listener: socket.socket) -> list[ProcessSpec]:
    """A spec for each frontend, all with the same socket."""
    # One thread: numpy would start one a core for products that a frontend never makes.
    own = {**settings.to_environment(), "OMP_NUM_THREADS": "1"}
    descriptor = listener.fileno()
    return [
        ProcessSpec(
            f"frontend-{number}",
            "polytask.service.processes.frontend",
            (str(folder), str(number), str(descriptor)),
            own,
            (descriptor,),
        )
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


def environment(spec: ProcessSpec) -> dict[str, str]:
    """The variables of a process: those of this one, but for settings, which are the spec's."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
    return inherited | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)} | spec.environment
