"""Structure of the service: boxes, floors and arrows of its first level, and the files that one request runs through.

    python -m benchmarks.structure [--tree PATH]

`--tree` measures another checkout, also one that has no package `polytask` yet but `service` at its root. The request
is the third one to a real server in one process: every Python call in every thread is observed.
"""

from __future__ import annotations

import http.client
import importlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from functools import cache
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Annotated, Any, NamedTuple

import grimp
import typer

_PRODUCT = ("service", "model", "model_store")
"""Folders whose files count as touched."""

_PATH = "/v1/tasks/intent/predict"
_TEXTS = ("Where is my card?", "How do I change my PIN?", "My transfer has not arrived.")
_SECRET = "polytask_structure"  # noqa: S105, of a server that lives for a second
_VARIABLES = {
    "POLYTASK_THREADS": "1",
    "POLYTASK_TOKEN_BUDGET": "1024",
    "POLYTASK_LOG_REQUESTS": "1",
    "POLYTASK_API_KEYS": f'one = {{ sha256 = "{sha256(_SECRET.encode()).hexdigest()}", requests_per_s = 100 }}',
}

_SETTLE_S = 0.5
"""A request is observed for this long after its answer: metrics and the log come later."""


class Shape(NamedTuple):
    """The first level of a package: its modules and sub-packages, the longest chain of imports, and all imports.

    Boxes that import each other in a circle count as one floor.
    """

    boxes: int
    floors: int
    arrows: int


def shape(package: str) -> Shape:
    """The shape of an importable package."""
    graph = grimp.build_graph(package.partition(".")[0], cache_dir=None)
    boxes = graph.find_children(package)
    for box in boxes:
        if graph.find_children(box):
            graph.squash_module(box)
    imports = {box: graph.find_modules_directly_imported_by(box) & boxes for box in boxes}
    reached = {box: graph.find_upstream_modules(box) for box in boxes}
    circles = {
        box: frozenset({box, *(other for other in boxes & reached[box] if box in reached[other])}) for box in boxes
    }
    return Shape(len(boxes), _floors(imports, circles), sum(map(len, imports.values())))


def _floors(imports: Mapping[str, AbstractSet[str]], circles: Mapping[str, frozenset[str]]) -> int:
    @cache
    def height(circle: frozenset[str]) -> int:
        below = {circles[imported] for box in circle for imported in imports[box]} - {circle}
        return 1 + max(map(height, below), default=0)

    return max(map(height, circles.values()), default=0)


def largest_folder(folder: Path) -> tuple[int, str]:
    """The number of modules in the folder that has the most, without `__init__.py`, and its name."""
    modules = (path for path in folder.rglob("*.py") if path.name != "__init__.py")
    folders = Counter(str(path.parent.relative_to(folder.parent)) for path in modules)
    ((name, number),) = folders.most_common(1)
    return number, name


def request_calls(tree: Path, package: str) -> list[CodeType]:
    """The code of each Python function of the product that the third request calls, in order. Runs a server until then."""
    calls: list[CodeType] = []
    observing = threading.Event()

    @cache
    def of_product(file: str) -> bool:
        path = Path(file).resolve()
        return path.is_relative_to(tree) and path.relative_to(tree).parts[0] in _PRODUCT

    def observe(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and observing.is_set() and of_product(frame.f_code.co_filename):
            calls.append(frame.f_code)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    threading.setprofile(observe)
    client = threading.Thread(target=_ask, args=(port, observing))
    client.start()
    sys.setprofile(observe)
    try:
        _serve(package, _VARIABLES | {"POLYTASK_PORT": str(port)})
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    client.join()
    return calls


def _serve(package: str, variables: dict[str, str]) -> None:
    settings, server = ("config.settings", "single_process") if package.startswith("polytask.") else ("settings", "app")
    settings_class = importlib.import_module(f"{package}.{settings}").Settings
    importlib.import_module(f"{package}.{server}").serve(settings_class.from_environment(variables))


def _ask(port: int, observing: threading.Event) -> None:
    """Sends the requests on one connection once the server is ready, observes the last one, and ends the server."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {_SECRET}", "Content-Type": "application/json"}

    def status(method: str, path: str, body: str | None = None) -> int:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        response.read()
        return response.status

    def ready() -> bool:
        try:
            return status("GET", "/readyz") == 200
        except ConnectionRefusedError:
            connection.close()
            return False

    try:
        while not ready():
            time.sleep(0.1)
        for text in _TEXTS:
            if text == _TEXTS[-1]:
                observing.set()
            assert status("POST", _PATH, json.dumps({"inputs": [text]})) == 200
            time.sleep(_SETTLE_S)
        observing.clear()
    finally:
        connection.close()
        os.kill(os.getpid(), signal.SIGTERM)


def main(
    tree: Annotated[Path, typer.Option(help="The checkout to measure.")] = Path(__file__).parents[1],
    show: Annotated[bool, typer.Option(help="Prints the files of the request too, in order.")] = False,
) -> None:
    """Measures a checkout and prints a figure a line."""
    tree = tree.resolve()
    sys.path.insert(0, str(tree))
    package = "polytask.service" if (tree / "polytask").is_dir() else "service"
    boxes, floors, arrows = shape(package)
    number, folder = largest_folder(tree / "service")
    calls = request_calls(tree, package)
    files = [str(Path(code.co_filename).resolve().relative_to(tree)) for code in calls]
    by_folder = Counter(Path(file).parts[0] for file in set(files))
    for name, value in (
        ("boxes of service/", boxes),
        ("floors", floors),
        ("arrows", arrows),
        (f"modules in the largest folder, {folder}", number),
        (
            "files that a request touches",
            f"{len(set(files))} ({', '.join(f'{key} {n}' for key, n in by_folder.items())})",
        ),
        ("functions", len(set(calls))),
        ("calls", len(calls)),
        ("changes of file", sum(before != after for before, after in pairwise(files))),
    ):
        print(f"{name}: {value}")
    if show:
        print(" > ".join(after for before, after in pairwise(["", *files]) if before != after))


if __name__ == "__main__":
    typer.run(main)
