"""The containers of `compose.yaml`, built and run by the Docker engine of this machine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROJECT = "polytask-test"
_PATIENCE_S = 180


def docker(*arguments: str) -> str:
    """What `docker` says on stdout. Raises CalledProcessError; its own words go to stderr."""
    finished = subprocess.run(["docker", *arguments], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)  # noqa: S607
    return finished.stdout.strip()


def build(image: str, dockerfile: str) -> None:
    """Builds an image as DOCKER_BUILD_FLAGS say: `--network host`, or a `--build-arg` with another index."""
    flags = shlex.split(os.environ.get("DOCKER_BUILD_FLAGS", ""))
    docker("build", *flags, "--quiet", "--file", dockerfile, "--tag", image, ".")


def image_mb(image: str) -> float:
    """Megabytes that an image takes on the disk."""
    return int(docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6


def until(what: str, holds: Callable[[], bool]) -> None:
    """Returns when it holds. Fails rather than hangs when it never does."""
    end = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"after {_PATIENCE_S} s still not: {what}"
        time.sleep(0.2)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Stack:
    """The service and Prometheus, started by Compose. `image`: that of the service."""

    image: str
    service_port: int
    prometheus_port: int

    @property
    def url(self) -> str:
        """The service, as it is published on this machine."""
        return f"http://127.0.0.1:{self.service_port}"

    @property
    def prometheus(self) -> str:
        """Prometheus, as it is published on this machine."""
        return f"http://127.0.0.1:{self.prometheus_port}"

    def compose(self, *arguments: str) -> None:
        """Runs Compose on `compose.yaml` and `.env.example` as they stand, with ports and a name of its own."""
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0  # noqa: S607
        command = ["docker", "compose"] if plugin else [shutil.which("docker-compose") or "docker-compose"]
        environment = {name: text for name, text in os.environ.items() if not name.startswith("POLYTASK_")} | {
            "SERVICE_IMAGE": self.image,
            "SERVICE_PORT": str(self.service_port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
        }
        files = ["--env-file", ".env.example", "--project-name", PROJECT, "--file", "compose.yaml"]
        subprocess.run([*command, *files, *arguments], cwd=ROOT, env=environment, check=True)

    def container(self, service: str = "service") -> str:
        """The id of a service's container."""
        label = f"label=com.docker.compose.service={service}"
        return docker(
            "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}", "--filter", label
        )

    def inspected(self) -> dict[str, Any]:
        """What the engine knows of the service's container."""
        (found,) = json.loads(docker("inspect", self.container()))
        return dict(found)

    def is_healthy(self) -> bool:
        """Whether the engine's health check of the service has passed."""
        return bool(self.inspected()["State"]["Health"]["Status"] == "healthy")

    def kill(self) -> None:
        """Kills the service's first process as the kernel does when memory is out.

        Not by `docker kill`: the engine takes that for the wish of a person, and starts the container no more.
        """
        number = self.inspected()["State"]["Pid"]
        host = ["--rm", "--pid", "host", "--user", "0", "--entrypoint", "python"]
        docker("run", *host, self.image, "-c", f"import os; os.kill({number}, 9)")
