"""Server processes: start, wait until they answer, measure memory, and stop with all their children."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.request import urlopen

import psutil

from benchmarks.serving.environments import Unavailable, last_lines

_START_S = 120
_STOP_S = 20


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    port: int
    process: psutil.Process

    def peak_memory_mb(self) -> float:
        """The sum of the peak resident sizes of its processes, in megabytes.

        What processes share counts once for each. Where the system does not tell: the size at present.
        """
        return sum(map(_peak_memory_mb, _tree(self.process)))

    def memory_mb(self) -> float:
        """The resident size of its processes at present, added up, in megabytes."""
        return sum(map(_memory_mb, _tree(self.process)))

    def open_files(self) -> int:
        """The file descriptors of its processes, sockets included."""
        return sum(process.num_fds() for process in _tree(self.process))

    def scrape(self) -> dict[str, float]:
        """All samples of its /metrics, by name with labels."""
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


def batches(samples: dict[str, float]) -> dict[str, float]:
    """Of the samples of the service's metrics, the sums that `means` needs: their differences over a time."""
    wanted = {
        "batches": "polytask_batch_inputs_count",
        "rows": "polytask_batch_inputs_sum",
        "tasks": "polytask_batch_tasks_sum",
        "seconds": "polytask_forward_duration_seconds_sum",
        "real": 'polytask_batch_tokens_total{kind="real"}',
        "padding": 'polytask_batch_tokens_total{kind="padding"}',
    }
    return {name: samples.get(key, 0.0) for name, key in wanted.items()}


def means(counted: dict[str, float]) -> dict[str, float]:
    """Means per batch: milliseconds of a forward, rows, tasks, and the share of padding."""
    if not counted.get("batches"):
        return {}
    return {
        "forward_ms": 1000 * counted["seconds"] / counted["batches"],
        "rows": counted["rows"] / counted["batches"],
        "tasks": counted["tasks"] / counted["batches"],
        "padding": counted["padding"] / (counted["padding"] + counted["real"]),
    }


@contextlib.contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    port: int,
    answers: Callable[[int], bool],
    written: TextIO | None = None,
) -> Iterator[Server]:
    """The server that `command` starts on `port`, once `answers(port)` is true. It inherits this process's cores.

    `written`: a file for what it prints, if that is of interest. Raises Unavailable where it ends before that, or takes too long.
    """
    _allow_many_connections()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as own:
        log = own if written is None else written
        started = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        server = Server(port, psutil.Process(started.pid))
        try:
            deadline = time.monotonic() + _START_S
            while not _quietly(answers, port):
                if started.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise Unavailable(f"did not start: {last_lines(log.read())}")
                time.sleep(0.5)
            yield server
        finally:
            _stop(server.process, started)


@contextlib.contextmanager
def polytask(model: str = "demo", *flags: str, written: TextIO | None = None, **variables: str) -> Iterator[Server]:
    """The service with its defaults, `flags` and what POLYTASK_ variables say, serving a version of the store.

    `variables`: more of these. `written`: as for `running`.
    """
    port = free_port()
    command = [sys.executable, "-m", "polytask", "serve", "--model", model, "--port", str(port), *flags]
    with running(command, variables, port, _is_ready, written) as server:
        yield server


def processor_s(process: psutil.Process) -> float:
    """The processor time that a process has used, in seconds."""
    times = process.cpu_times()
    return float(times.user + times.system)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _is_ready(port: int) -> bool:
    with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
        return bool(response.status == 200)


def _quietly(answers: Callable[[int], bool], port: int) -> bool:
    with contextlib.suppress(OSError):  # refused, reset, not found yet, timed out
        return answers(port)
    return False


def _stop(process: psutil.Process, started: subprocess.Popen[bytes]) -> None:
    """Asks it to end, and ends what is left of what it started."""
    family = _tree(process)
    started.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        started.wait(_STOP_S)
    for left in psutil.wait_procs(family, timeout=1)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    started.wait()


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _memory_mb(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        return float(process.memory_info().rss) / 1e6
    return 0.0


def _peak_memory_mb(process: psutil.Process) -> float:
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(encoding="ascii"))
        if found:
            return int(found[1]) * 1024 / 1e6
    return _memory_mb(process)


def _allow_many_connections() -> None:
    """As many open files as the system allows, for this process and the servers that it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
