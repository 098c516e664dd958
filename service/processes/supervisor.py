"""The parent of engines and frontends: holds the port, starts them, starts them again when they die, ends them in order.

A process ends when its standard input does, so none outlives the supervisor. Frontends then answer what they have
accepted, and an engine ends after the last frontend.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from polytask.model_store.versions import resolve
from polytask.service.config.settings import Settings
from polytask.service.errors import StartupError
from polytask.service.observability.logs import configure_logs
from polytask.service.observability.metric_storage import SharedStorage, remove_gauges
from polytask.service.observability.restart_metrics import RestartMetrics
from polytask.service.processes.child_process import CANNOT_START, METRICS, engine_socket
from polytask.service.processes.process_specs import ProcessSpec, engine_specs, environment, frontend_specs
from polytask.service.web.listener import listen

logger = logging.getLogger(__name__)

_PATIENCE_S = 15
"""What the end of all processes may take beyond `drain_s` and the longest deadline: then those that are left are killed."""

_MAX_SOCKET_PATH = 100
"""Bytes; the kernel takes 107 on Linux and 103 on macOS."""


def serve(settings: Settings, engine: str = "polytask.service.processes.engine") -> None:
    """Serves with a process for each engine and frontend until SIGTERM or SIGINT, then answers what was accepted.

    Raises StoreError or StartupError where the checkpoint cannot be served. `engine`: the module that is run.
    """
    configure_logs("supervisor", settings.log_format)
    with listen(settings.host, settings.port) as listener, tempfile.TemporaryDirectory(prefix="polytask-") as name:
        folder = Path(name)
        if len(os.fsencode(engine_socket(folder, len(settings.engine_devices)))) > _MAX_SOCKET_PATH:
            raise StartupError(f"the path of {folder} is too long for a socket; set TMPDIR to a shorter one")
        (folder / METRICS).mkdir()
        # Pinned: a version that is promoted while this one is served must not come in by the restart of a process.
        version = resolve(settings.store, settings.model)
        settings = replace(settings, model=f"{version.parent.name}/{version.name}")
        if settings.api_keys_file:
            # For the same reason: all frontends know the same keys, whenever they were started.
            settings = replace(settings, api_keys_file=shutil.copy(settings.api_keys_file, str(folder / "api-keys")))
        asyncio.run(
            _Supervisor(
                listener,
                folder,
                [*engine_specs(settings, folder, engine), *frontend_specs(settings, folder, listener)],
                settings.drain_s + settings.deadline_s + _PATIENCE_S,
            ).run()
        )


class _Supervisor:
    """Keeps a process in each spec. `patience_s`: how long all of them may take to end."""

    def __init__(self, listener: socket.socket, folder: Path, specs: list[ProcessSpec], patience_s: float) -> None:
        self._listener = listener
        self._folder = folder
        self._specs = specs
        self._patience_s = patience_s
        self._ending = asyncio.Event()
        self._restarts = RestartMetrics(SharedStorage(folder / METRICS, "supervisor"))

    async def run(self) -> None:
        """Until a signal comes, or a process cannot be kept alive: then raises StartupError."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._ending.set)
        keepers = [asyncio.create_task(self._keep(spec)) for spec in self._specs]
        ending = asyncio.create_task(self._ending.wait())
        await asyncio.wait([*keepers, ending], return_when=asyncio.FIRST_COMPLETED)
        self._end()
        _, late = await asyncio.wait(keepers, timeout=self._patience_s)
        if late:
            logger.error("%d processes did not end within %.0f s; they are killed", len(late), self._patience_s)
            for spec in self._specs:
                _signal(spec, signal.SIGKILL)
        ends = await asyncio.gather(*keepers, return_exceptions=True)
        ending.cancel()
        for error in ends:
            if isinstance(error, BaseException):
                raise error

    def _end(self) -> None:
        self._ending.set()
        self._listener.close()
        for spec in self._specs:
            _close_lifeline(spec)

    async def _keep(self, spec: ProcessSpec) -> None:
        """Starts the spec's process again and again. Raises StartupError where that is no use."""
        while not self._ending.is_set():
            started = time.monotonic()
            ready, error = await self._live(spec)
            assert spec.process is not None
            code, lived_s = spec.process.returncode, time.monotonic() - started
            remove_gauges(self._folder / METRICS, spec.name)
            if self._ending.is_set():
                return
            logger.error("%s has died (exit code %s)%s", spec.name, code, f": {error}" if error else "")
            if code == CANNOT_START and error and not spec.restart_policy.was_ready:
                raise StartupError(error)
            pause_s = spec.restart_policy.next_delay_s(ready=ready, lived_s=lived_s)
            if pause_s is None:
                raise StartupError(
                    f"{spec.name} died {spec.restart_policy.num_failed} times in a row before it was ready, the last time with exit "
                    f"code {code}{f' ({error})' if error else ''}; the log has what it said"
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause_s)
            if not self._ending.is_set():
                self._restarts.restarted(spec.name)

    async def _live(self, spec: ProcessSpec) -> tuple[bool, str]:
        """One life of a process: whether it has been ready, and the error that it reported."""
        spec.process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            # Not the folder that the command was given in: the modules are found where this process found them.
            "-P",
            "-m",
            spec.module,
            *spec.arguments,
            env=environment(spec),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=spec.descriptors,
        )
        logger.info("%s started, process %d", spec.name, process.pid)
        if self._ending.is_set():
            _close_lifeline(spec)
        ready, error = False, ""
        assert process.stdout is not None
        async for line in process.stdout:
            report = json.loads(line)
            ready = ready or "ready" in report
            error = report.get("error", error)
            if "ready" in report:
                spec.restart_policy.was_ready = True
                logger.info("%s is ready", spec.name)
        await process.wait()
        return ready, error


def _close_lifeline(spec: ProcessSpec) -> None:
    if spec.process is not None and spec.process.stdin is not None:
        spec.process.stdin.close()


def _signal(spec: ProcessSpec, number: signal.Signals) -> None:
    if spec.process is not None and spec.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            spec.process.send_signal(number)
