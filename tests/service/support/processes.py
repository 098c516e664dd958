"""Services in their own processes: their addresses, their metrics, and waiting for a condition."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

PATIENCE_S = 180


@contextlib.contextmanager
def polytask_serve(*flags: str) -> Iterator[str]:
    """The address of `polytask serve` on a free port, without calibration, ready to answer."""
    command = [sys.executable, "-m", "polytask", "serve", "--port", "0", "--token-budget", "1024", *flags]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as popen:
        try:
            url = address(popen)
            with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
                until(lambda: client.get("/readyz").status_code == 200)
            yield url
        finally:
            popen.kill()


def address(popen: subprocess.Popen[str]) -> str:
    """The address that the process logs. Continues to read its log, so that the pipe does not fill."""
    assert popen.stderr is not None
    for line in popen.stderr:
        if found := re.search(r'http://[^\s"]+', line):
            threading.Thread(target=popen.stderr.read, daemon=True).start()
            return found[0]
    raise AssertionError("the service did not start")


def sample(client: httpx.Client, name: str, **labels: str) -> float:
    """The value of a metric, added up over the labels that are not given."""
    found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)", client.get("/metrics").text, re.MULTILINE)
    wanted = {f'{label}="{value}"' for label, value in labels.items()}
    return sum(float(value) for given, value in found if wanted <= set(given.split(",")))


def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; fails if it does not within the time limit."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def refused(client: httpx.Client) -> bool:
    """Whether new connections are refused."""
    try:
        socket.create_connection((client.base_url.host, client.base_url.port or 0), 1).close()
    except OSError:
        return True
    return False
