"""Docker support: containers of the Compose files, built and run by the Docker engine of this machine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[3]
PYTHON_IMAGE = "python:3.11-slim-trixie"
_PATIENCE_S = 180


def docker(*arguments: str) -> str:
    """The standard output of a `docker` command. Raises CalledProcessError."""
    finished = subprocess.run(["docker", *arguments], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)  # noqa: S607
    return finished.stdout.strip()


def build(image: str, dockerfile: str) -> None:
    """Builds an image. DOCKER_BUILD_FLAGS may add `--network host` or a `--build-arg` with another index."""
    flags = shlex.split(os.environ.get("DOCKER_BUILD_FLAGS", ""))
    docker("build", *flags, "--quiet", "--file", dockerfile, "--tag", image, ".")


def image_mb(image: str) -> float:
    """Megabytes that an image takes on the disk."""
    return int(docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6


def until(what: str, holds: Callable[[], bool]) -> None:
    """Waits until it holds. Fails after a while."""
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
    """Containers started by Compose. `port`: where clients reach the service, be it a proxy's; `variables`: as in .env.

    `image`: that of the service. `project`: the name that Compose puts before those of containers and volumes.
    """

    image: str
    project: str
    files: tuple[str, ...] = ("compose.yaml",)
    variables: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    prometheus_port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        """The service, as it is published on this machine."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def prometheus(self) -> str:
        """Prometheus, as it is published on this machine."""
        return f"http://127.0.0.1:{self.prometheus_port}"

    @property
    def command(self) -> list[str]:
        """Compose on the files and `.env.example` as they stand, with a name of its own."""
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0  # noqa: S607
        compose = ["docker", "compose"] if plugin else [shutil.which("docker-compose") or "docker-compose"]
        files = [option for file in self.files for option in ("--file", file)]
        return [*compose, "--env-file", ".env.example", "--project-name", self.project, *files]

    @property
    def environment(self) -> dict[str, str]:
        """The variables that Compose and scripts around it are run with."""
        replicated = "compose.replicas.yaml" in self.files
        return {name: text for name, text in os.environ.items() if not name.startswith("POLYTASK_")} | {
            "SERVICE_IMAGE": self.image,
            "SERVICE_PORT": "" if replicated else str(self.port),
            "PROXY_PORT": str(self.port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
            **self.variables,
        }

    def compose(self, *arguments: str) -> None:
        """Runs Compose."""
        subprocess.run([*self.command, *arguments], cwd=ROOT, env=self.environment, check=True)

    def containers(self, service: str = "service") -> list[str]:
        """The ids of a service's containers."""
        labels = {"project": self.project, "service": service}
        filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        return docker("ps", "--all", "--quiet", "--no-trunc", *filters).split()

    def container(self, service: str = "service") -> str:
        """The id of a service's only container."""
        (found,) = self.containers(service)
        return found

    def is_healthy(self) -> bool:
        """Whether the engine's health check of each of the service's containers has passed."""
        return self.containers() != [] and all(
            inspected(container)["State"]["Health"]["Status"] == "healthy" for container in self.containers()
        )

    def kill(self, container: str) -> None:
        """Kills a container's first process as the kernel does when memory runs out.

        Not by `docker kill`, after which the engine does not restart the container.
        """
        number = inspected(container)["State"]["Pid"]
        host = ["--rm", "--pid", "host", "--user", "0", "--entrypoint", "python"]
        docker("run", *host, self.image, "-c", f"import os; os.kill({number}, 9)")

    def series(self, query: str) -> list[float]:
        """The current values of a Prometheus query; empty while Prometheus does not answer."""
        try:
            response = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": query}, timeout=5)
        except httpx.TransportError:
            return []
        return [float(series["value"][1]) for series in response.raise_for_status().json()["data"]["result"]]


def inspected(container: str) -> dict[str, Any]:
    """The engine's record of a container."""
    (found,) = json.loads(docker("inspect", container))
    return dict(found)
