"""Supervisor: holds the port, starts engines and frontends, restarts those that die or hang, and shuts them down in order.

A process ends when its standard input does, so none outlives the supervisor. Frontends first answer the requests that
they have accepted. An engine ends after the last frontend. Who is starting has accepted nothing, and is killed; so is who
hangs.
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
import time
from dataclasses import replace
from pathlib import Path

from polytask.model_store.versions import resolve
from polytask.service.config.settings import Settings
from polytask.service.config.shutdown_signals import shutdown_signals
from polytask.service.errors import StartupError
from polytask.service.liveness import HUNG_S, RESTART_S, TICK_S, ProgressWatch
from polytask.service.observability.metric_storage import SharedStorage, remove_gauges
from polytask.service.observability.restart_metrics import RestartMetrics
from polytask.service.processes.child_process import CANNOT_START, MAX_REPORT, METRICS, SHUTDOWN_MARGIN_S, engine_socket
from polytask.service.processes.process_specs import (
    LONGEST_PAUSE_S,
    ProcessSpec,
    engine_specs,
    environment,
    frontend_specs,
)
from polytask.service.processes.shared_folder import shared_folder
from polytask.service.web.listener import listen

logger = logging.getLogger(__name__)

_MAX_SOCKET_PATH = 100
"""In bytes. The kernel's limit is 107 on Linux and 103 on macOS."""


def serve(settings: Settings, engine: str = "polytask.service.processes.engine") -> None:
    """Serves with a process for each engine and frontend until a shutdown signal, then answers the accepted requests.

    `engine`: the module of engine processes. Raises StoreError or StartupError where the checkpoint cannot be served.
    """
    with listen(settings.host, settings.port) as listener, shared_folder() as folder:
        if len(os.fsencode(engine_socket(folder, len(settings.engine_devices)))) > _MAX_SOCKET_PATH:
            raise StartupError(f"the path of {folder} is too long for a socket; set TMPDIR to a shorter one")
        (folder / METRICS).mkdir()
        # Pinned: a version that is promoted meanwhile must not be served by a restarted process.
        version = resolve(settings.store, settings.model)
        settings = replace(settings, model=f"{version.parent.name}/{version.name}")
        if settings.api_keys_file:
            # Copied for the same reason: all frontends have the same keys, whenever they start.
            settings = replace(settings, api_keys_file=shutil.copy(settings.api_keys_file, str(folder / "api-keys")))
        asyncio.run(
            _Supervisor(
                listener,
                folder,
                [*engine_specs(settings, folder, engine), *frontend_specs(settings, folder, listener)],
                settings.drain_s + settings.deadline_s + SHUTDOWN_MARGIN_S,
            ).run()
        )


class _Supervisor:
    """Keeps a process running for each spec. `shutdown_s`: how long all of them may take to end."""

    def __init__(self, listener: socket.socket, folder: Path, specs: list[ProcessSpec], shutdown_s: float) -> None:
        self._listener = listener
        self._folder = folder
        self._specs = specs
        self._shutdown_s = shutdown_s
        self._shutdown = asyncio.Event()
        self._restarts = RestartMetrics(SharedStorage(folder / METRICS, "supervisor"))

    async def run(self) -> None:
        """Returns after a signal. Raises StartupError when a process cannot be kept running."""
        for signal_number in shutdown_signals():
            asyncio.get_running_loop().add_signal_handler(signal_number, self._shutdown.set)
        keepers = [asyncio.create_task(self._keep(spec)) for spec in self._specs]
        signalled = asyncio.create_task(self._shutdown.wait())
        watches = [asyncio.create_task(self._watch(spec)) for spec in self._specs]
        await asyncio.wait([*keepers, signalled], return_when=asyncio.FIRST_COMPLETED)
        self._shut_down()
        _, late = await asyncio.wait(keepers, timeout=self._shutdown_s)
        if late:
            logger.error("%d processes did not end within %.0f s; they are killed", len(late), self._shutdown_s)
            for spec in self._specs:
                _signal(spec, signal.SIGKILL)
        results = await asyncio.gather(*keepers, return_exceptions=True)
        for task in (signalled, *watches):
            task.cancel()
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _shut_down(self) -> None:
        self._shutdown.set()
        self._listener.close()
        for spec in self._specs:
            _end(spec)

    async def _keep(self, spec: ProcessSpec) -> None:
        """Starts and restarts a process. Raises StartupError when another start would not help."""
        while not self._shutdown.is_set():
            started = time.monotonic()
            error = await self._run_once(spec)
            assert spec.process is not None
            code, run_s = spec.process.returncode, time.monotonic() - started
            remove_gauges(self._folder / METRICS, spec.name)
            if self._shutdown.is_set():
                return
            logger.error("%s has died (exit code %s)%s", spec.name, code, f": {error}" if error else "")
            if code == CANNOT_START and error and not spec.restart_policy.was_ready:
                raise StartupError(error)
            pause_s = spec.restart_policy.next_delay_s(ready=spec.ready, run_s=run_s)
            if pause_s is None and code == CANNOT_START and spec.restart_policy.was_ready:
                # What it reads at its start has been damaged. The other processes go on with what they have read.
                pause_s = LONGEST_PAUSE_S
            if pause_s is None:
                raise StartupError(
                    f"{spec.name} died {spec.restart_policy.num_failed_starts} times in a row before it was ready, the last time with exit "
                    f"code {code}{f' ({error})' if error else ''}; the log has what it said"
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._shutdown.wait(), pause_s)
            if not self._shutdown.is_set():
                self._restarts.restarted(spec.name)

    async def _watch(self, spec: ProcessSpec) -> None:
        """Kills the process whenever it was ready and hangs. Then `_keep` starts it again, unless the service shuts down."""
        progress = ProgressWatch()
        while True:
            await asyncio.sleep(TICK_S)
            still_s = progress.look((spec.process, spec.num_reports))
            if spec.ready and spec.runs and still_s > (HUNG_S if self._shutdown.is_set() else RESTART_S):
                logger.error("%s hangs: it has done nothing for %.0f s, and is killed", spec.name, still_s)
                _signal(spec, signal.SIGKILL)
                progress = ProgressWatch()

    async def _run_once(self, spec: ProcessSpec) -> str:
        """Runs a process until it ends. Returns the error that it reported."""
        spec.process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            # Without the current folder: modules are found where this process found them.
            "-P",
            "-m",
            spec.module,
            *spec.arguments,
            env=environment(spec),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=spec.descriptors,
            limit=MAX_REPORT,
        )
        spec.ready, error = False, ""
        logger.info("%s started, process %d", spec.name, process.pid)
        if self._shutdown.is_set():
            _end(spec)
        assert process.stdout is not None
        async for line in process.stdout:
            report = json.loads(line)
            spec.num_reports += 1
            error = report.get("error", error)
            if "ready" in report:
                spec.ready = spec.restart_policy.was_ready = True
                logger.info("%s is ready", spec.name)
        await process.wait()
        return error


def _end(spec: ProcessSpec) -> None:
    """Lets a process that is ready answer what it has accepted, and kills one that is not."""
    if not spec.ready:
        _signal(spec, signal.SIGKILL)
    if spec.process is not None and spec.process.stdin is not None:
        spec.process.stdin.close()


def _signal(spec: ProcessSpec, signal_number: signal.Signals) -> None:
    if spec.runs:
        assert spec.process is not None
        with contextlib.suppress(ProcessLookupError):
            spec.process.send_signal(signal_number)
