"""Process specs: module, arguments and environment of each engine and frontend, and when to restart one that died."""

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
LONGEST_PAUSE_S = 30.0

_LONG_RUN_S = 60.0
"""A process that ran this long has worked: its death starts the back-off anew."""

_MAX_FAILED_STARTS = 5
"""Starts in a row without getting ready after which the process is given up."""


@dataclass(slots=True)
class RestartPolicy:
    """Restart back-off of one process: pauses double up to a limit, and it ends after too many failed starts.

    `was_ready`: ever. `num_failed_starts`: deaths in a row before the process was ready. `num_quick_failures`: deaths in
    a row of short runs.
    """

    was_ready: bool = False
    num_failed_starts: int = 0
    num_quick_failures: int = 0

    def next_delay_s(self, *, ready: bool, run_s: float) -> float | None:
        """Records a death after `run_s` seconds. Returns the pause before the next start, or None to give up.

        `ready`: whether the process was ready in this run.
        """
        self.num_failed_starts = 0 if ready else self.num_failed_starts + 1
        if self.num_failed_starts == _MAX_FAILED_STARTS:
            return None
        self.num_quick_failures = 0 if ready and run_s >= _LONG_RUN_S else self.num_quick_failures + 1
        return min(LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** max(0, self.num_quick_failures - 1))


@dataclass(slots=True)
class ProcessSpec:
    """A process to keep running: its module, arguments and environment, and the process that runs now.

    `ready`: whether that process has been ready. `num_reports`: it has sent.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    descriptors: tuple[int, ...] = ()
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    process: asyncio.subprocess.Process | None = None
    ready: bool = False
    num_reports: int = 0

    @property
    def runs(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self.process is not None and self.process.returncode is None


def engine_specs(settings: Settings, folder: Path, module: str) -> list[ProcessSpec]:
    """A spec for each engine. Each sees its own device only; those on the CPU share its cores."""
    on_cpu = sum(device != "cuda" and not device.isdigit() for device in settings.engine_devices)
    threads = settings.threads or max(1, available_cores() // max(1, on_cpu))
    specs = []
    for number, entry in enumerate(settings.engine_devices):
        variables = replace(settings, devices="", threads=threads).to_environment()
        variables[env_name("device")] = "cuda" if entry.isdigit() else entry
        if entry.isdigit():
            variables["CUDA_VISIBLE_DEVICES"] = _visible(int(entry))
        specs.append(ProcessSpec(f"engine-{number}", module, (str(folder), str(number)), variables))
    return specs


def frontend_specs(settings: Settings, folder: Path, listener: socket.socket) -> list[ProcessSpec]:
    """A spec for each frontend. All get the same socket."""
    # numpy would start a thread per core for matrix products, which a frontend never computes.
    variables = {**settings.to_environment(), "OMP_NUM_THREADS": "1"}
    descriptor = listener.fileno()
    return [
        ProcessSpec(
            f"frontend-{number}",
            "polytask.service.processes.frontend",
            (str(folder), str(number), str(descriptor)),
            variables,
            (descriptor,),
        )
        for number in range(settings.num_frontends)
    ]


def _visible(ordinal: int) -> str:
    """The name in CUDA_VISIBLE_DEVICES of a device, counted among those that this process may use."""
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
    """The environment of a process: that of this one, with the settings of the spec."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
    return inherited | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)} | spec.environment
