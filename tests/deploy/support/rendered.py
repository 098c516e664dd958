"""Kubernetes manifests as kubectl renders them, and accessors to their objects."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from tests.support.omissions import left_out

ROOT = Path(__file__).parents[3]
KUBERNETES = ROOT / "deploy" / "kubernetes"
EXAMPLE = "example"
"""What docs/deploying.md shows: the overlay for CPUs with all components."""

RENDERED = ("overlays/cpu", "overlays/gpu", "store", EXAMPLE)
SERVICES = RENDERED[:2] + RENDERED[3:]
"""Those in which there is a service."""

Object: TypeAlias = dict[str, Any]
"""An object of Kubernetes."""


@cache
def rendered(name: str) -> list[Object]:
    """All objects of one of RENDERED. Skips the test where there is no kubectl with kustomize 5."""
    if name != EXAMPLE:
        return _built(KUBERNETES / name)
    page = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(resources: .+?)```", page, re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "polytask").symlink_to(ROOT)
        (Path(folder) / "kustomization.yaml").write_text(example, encoding="utf-8")
        return _built(Path(folder))


def of_kind(name: str, kind: str) -> list[Object]:
    """The objects of a kind in one of RENDERED."""
    return [found for found in rendered(name) if found["kind"] == kind]


def one(name: str, kind: str) -> Object:
    """The only object of a kind in one of RENDERED."""
    (found,) = of_kind(name, kind)
    return found


def pod(name: str) -> Object:
    """The spec of the pods in one of RENDERED."""
    if name == "store":
        return spec(one(name, "Pod"))
    return spec(spec(one(name, "Deployment"))["template"])


def container(name: str) -> Object:
    """The only container of the pods in one of RENDERED."""
    (found,) = pod(name)["containers"]
    assert isinstance(found, dict)
    return found


def spec(found: Object) -> Object:
    """The spec of an object."""
    value = found["spec"]
    assert isinstance(value, dict)
    return value


def settings(name: str) -> dict[str, str]:
    """The service's environment variables beside those of its image."""
    by_name = {found["metadata"]["name"]: found["data"] for found in of_kind(name, "ConfigMap")}
    (source,) = container(name)["envFrom"]
    own = {entry["name"]: entry["value"] for entry in container(name).get("env", [])}
    return {**by_name[source["configMapRef"]["name"]], **own}


def _built(folder: Path) -> list[Object]:
    if not _has_kustomize():
        left_out("kubectl")
    built = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)  # noqa: S607
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


@cache
def _has_kustomize() -> bool:
    if shutil.which("kubectl") is None:
        return False
    said = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True, check=False).stdout  # noqa: S607
    return re.search(r"Kustomize Version: v[5-9]", said) is not None
