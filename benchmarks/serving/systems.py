"""Compared systems: the command that starts each, and its requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.serving.load import Request
from benchmarks.serving.workload import Row
from polytask.service.api.schemas import from_input

ENGINES = ("torch", "onnx", "int8")

_RIVALS = "benchmarks.serving.rivals"


@dataclass(frozen=True, slots=True)
class System:
    """A server. `environment`: which of the rivals' it runs in, None for this one.

    `command`: what follows the interpreter, for a port. `ask`: path and JSON body for rows of one task. `labels`: one
    per text, from the JSON that comes back. `engine`: what runs a rival's models, one of ENGINES.
    """

    name: str
    title: str
    environment: str | None
    command: Callable[[int], list[str]]
    ask: Callable[[Sequence[Row]], tuple[str, Any]]
    labels: Callable[[Any], list[str]]
    engine: str = ""

    def request(self, rows: Sequence[Row]) -> Request:
        """One request about rows of one task."""
        path, body = self.ask(rows)
        return Request.post(rows[0].task.name, len(rows), path, json.dumps(body).encode())


def _ask_polytask(rows: Sequence[Row]) -> tuple[str, Any]:
    task = rows[0].task
    return f"/v1/tasks/{task.name}/predict", {"inputs": [from_input(task, row.item) for row in rows]}


def _ask_rival(rows: Sequence[Row]) -> tuple[str, Any]:
    return f"/{rows[0].task.name}", {"texts": [row.text for row in rows]}


def _ask_infinity(rows: Sequence[Row]) -> tuple[str, Any]:
    return "/classify", {"model": rows[0].task.name, "input": [row.text for row in rows]}


def _read_rival(found: Any) -> list[str]:
    return [answer["label"] for answer in found]


def _read_infinity(found: Any) -> list[str]:
    return [answers[0]["label"] for answers in found["data"]]


def _serve_polytask(port: int) -> list[str]:
    return ["-m", "polytask", "serve", "--port", str(port)]


def _serve_mosec(port: int) -> list[str]:
    limits = ["--timeout", "60000", "--capacity", "4096", "--log-level", "warning"]
    return ["-m", f"{_RIVALS}.mosec", "--address", "127.0.0.1", "--port", str(port), *limits]


def _serve_bentoml(port: int) -> list[str]:
    return ["-m", "bentoml", "serve", f"{_RIVALS}.bentoml:Classifiers", "--host", "127.0.0.1", "--port", str(port)]


def _rival(name: str, title: str, environment: str, engine: str) -> System:
    module = f"{_RIVALS}.{name.replace('-', '_')}"
    return System(name, title, environment, lambda _: ["-m", module], _ask_rival, _read_rival, engine)


ALL = (
    System(
        "polytask", "Polytask", None, _serve_polytask, _ask_polytask, lambda found: list(map(str, found["answers"]))
    ),
    _rival("fastapi-pipeline", "FastAPI + transformers pipeline", "fastapi", "torch"),
    _rival("fastapi-batching", "FastAPI + batching by hand", "fastapi", "onnx"),
    _rival("fastapi-alone", "FastAPI, each text alone", "fastapi", "int8"),
    _rival("litserve", "LitServe", "litserve", "torch"),
    replace(_rival("bentoml", "BentoML", "bentoml", "torch"), command=_serve_bentoml),
    _rival("ray", "Ray Serve", "ray", "torch"),
    replace(_rival("mosec", "mosec", "mosec", "torch"), command=_serve_mosec),
    replace(_rival("infinity", "infinity", "infinity", "onnx"), ask=_ask_infinity, labels=_read_infinity),
)


def find(name: str) -> System:
    """The system NAME, or NAME:ENGINE where engine is torch, onnx or int8. Raises ValueError."""
    base, _, engine = name.partition(":")
    for system in ALL:
        if system.name == base:
            if engine and (not system.engine or engine not in ENGINES):
                raise ValueError(f"{name}: the engine of a rival is one of {', '.join(ENGINES)}")
            return replace(system, engine=engine or system.engine)
    raise ValueError(f"no such system: {name}; there are {', '.join(system.name for system in ALL)}")
