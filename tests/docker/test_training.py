"""Training image: it trains a version into the volume, and the service answers with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from polytask_client import ClassificationAnswer, Client
from tests.docker.support.engine import PYTHON_IMAGE, Stack, docker, image_mb, until

pytestmark = pytest.mark.docker

_RECIPE = """
name = "shop"

[backbone]
name = "sentence-transformers/all-MiniLM-L6-v2"
frozen_layers = 5

[optimizer]
learning_rate = 1e-3
added_learning_rate = 2e-3

[length]
examples = 400

[[tasks]]
name = "department"
kind = "classification"
train = "department.jsonl"
holdout = 0.25
"""

_TEXTS = {
    "shoes": ["boots", "sandals", "slippers", "sneakers"],
    "kitchen": ["knives", "spoons", "plates", "pots"],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a recipe and its data, as the container's user can read it."""
    lines = [
        json.dumps({"text": f"{asked} {ware}{mark}", "label": label})
        for label, wares in _TEXTS.items()
        for ware in wares
        for asked in ("Do you have", "I am looking for", "Please send me two")
        for mark in ("?", " today", " in blue")
    ]
    (tmp_path / "department.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(_RECIPE, encoding="utf-8")
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.fixture
def stack(service_image: str, training_image: str, data: Path) -> Iterator[Stack]:
    """Nothing that runs yet, but what to run: the service is to serve `shop`."""
    variables = {"TRAINING_IMAGE": training_image, "DATA": str(data), "POLYTASK_MODEL": "shop"}
    stack = Stack(service_image, "polytask-training-test", variables=variables)
    try:
        yield stack
    finally:
        stack.compose("--profile", "training", "down", "--volumes")


def test_a_version_that_it_has_trained_is_served(stack: Stack) -> None:
    """A version that was trained, exported and promoted in the volume is served on ONNX Runtime."""
    for command in (
        ["train", "/data/recipe.toml", "--data", "/data"],
        ["export", "shop/1"],
        ["models", "promote", "shop/1"],
    ):
        stack.compose("--profile", "training", "run", "-T", "--rm", "training", *command)
    stack.compose("up", "--detach", "--no-build", "service")
    until("the service is healthy", stack.is_healthy)
    with Client(stack.url) as client:
        prediction = client.predict("department", ["I would like new boots", "Where are the plates?"])
    assert prediction.model == "shop/1"
    assert [answer.label for answer in prediction.of(ClassificationAnswer)] == ["shoes", "kitchen"]
    assert 'backend="onnxruntime"' in docker(
        "exec",
        stack.container(),
        "python",
        "-c",
        "from urllib.request import *; print(urlopen('http://127.0.0.1:8000/metrics').read().decode())",
    )


def test_its_image_says_how_large_it_is(training_image: str) -> None:
    """The image has the embedded checkpoint as published, and its size is printed."""
    print(f"\n{training_image}: {image_mb(training_image) - image_mb(PYTHON_IMAGE):.0f} MB over Python's")  # noqa: T201
    assert "demo" in docker("run", "--rm", "--read-only", "--tmpfs=/tmp", training_image, "models", "verify")
