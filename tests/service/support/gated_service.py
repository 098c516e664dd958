"""A service with a device that takes commands, started in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.service.support.processes import PATIENCE_S, address, sample, until


@dataclass
class Process:
    """A service in a process of its own."""

    popen: subprocess.Popen[str]
    client: httpx.Client

    def tell(self, command: str) -> None:
        """Gives the device a command, and returns when it is obeyed."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(f"{command}\n")
        self.popen.stdin.flush()
        assert self.popen.stdout.readline().strip() == command

    def sample(self, name: str) -> float:
        """The value of a metric, added up over its labels."""
        return sample(self.client, name)


@contextlib.contextmanager
def process(store: Path, *, shut: bool = False, **variables: str) -> Iterator[Process]:
    """A service of `tiny` in `store`, on a free port and ready to answer; with `shut` it does not get warm."""
    command = [sys.executable, "-m", "tests.service.support.gated_process"]
    environment = {
        "POLYTASK_STORE": str(store),
        "POLYTASK_MODEL": "tiny",
        "POLYTASK_PORT": "0",
        "POLYTASK_THREADS": "1",
        **({"SHUT": "1"} if shut else {}),
        **variables,
    }
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=os.environ | environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as popen:
        try:
            with httpx.Client(base_url=address(popen), timeout=PATIENCE_S) as client:
                until(lambda: shut or client.get("/readyz").status_code == 200)
                yield Process(popen, client)
        finally:
            popen.kill()
