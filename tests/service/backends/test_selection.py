"""Which engine runs a version: what was exported, what is installed, what the settings say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from polytask.model.network import Network
from polytask.model_store.exports import Candidate
from polytask.model_store.versions import resolve
from polytask.service.backends.forward import Forward
from polytask.service.backends.selection import load_backend, open_backend, select_backend
from polytask.service.backends.shape_buckets import Buckets
from polytask.service.backends.torch_cpu import TorchBackend
from polytask.service.config.settings import Settings
from polytask.service.errors import StartupError
from tests.service.support import checkpoints
from tests.support import exported, tiny


def candidate(backend: str, precision: str, refused: str | None = None, file: str | None = "a.onnx") -> Candidate:
    """A candidate of which nothing else matters."""
    return Candidate(backend, precision, file, f"{backend} 1", {}, {}, refused, ())


MEASURED = (
    candidate("onnxruntime", "int8"),
    candidate("openvino", "int8"),
    candidate("openvino", "bfloat16"),
    candidate("onnxruntime", "float32"),
    candidate("torch", "float32", file=None),
    candidate("openvino", "float32", "task 'mood' loses 0.70"),
)
"""The fastest first, as an export has them."""


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO is not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name))


@pytest.mark.parametrize(
    ("runner", "device", "chosen"),
    [
        ("auto", "cpu", MEASURED[0]),
        ("onnxruntime", "cpu", MEASURED[0]),
        ("openvino", "cpu", MEASURED[1]),
        ("auto", "cuda", None),
        ("onnxruntime", "cuda", MEASURED[3]),
    ],
)
def test_the_fastest_that_passed_is_chosen(runner: str, device: str, chosen: Candidate | None) -> None:
    """Of all engines, or of the one that is named; on CUDA it is torch, or a float32 file."""
    assert select_backend(MEASURED, runner, device) == chosen


@pytest.mark.usefixtures("without")
def test_auto_passes_over_what_is_not_installed() -> None:
    """A checkpoint exported with more engines than this machine has is served with one that it has."""
    assert select_backend(MEASURED[1:], "auto", "cpu") == MEASURED[3]


@pytest.mark.usefixtures("without")
def test_a_named_engine_that_is_not_installed_stops_the_start() -> None:
    """The message says how to install it."""
    with pytest.raises(StartupError, match=r"openvino is not installed: pip install 'polytask\[openvino\]'"):
        select_backend(MEASURED, "openvino", "cpu")


def test_what_was_refused_is_not_served() -> None:
    """Even where it is the only candidate of its engine."""
    assert select_backend(MEASURED[5:], "openvino", "cpu") is None


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with the tiny version, not exported."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    checkpoints.saved(tmp_path / "store")
    return tmp_path / "store"


@pytest.mark.usefixtures("untouched")
def test_without_exports_it_is_torch(store: Path) -> None:
    """Nothing needs to be exported; an engine that is named does."""
    _, runner = load_backend(Settings(store=store, model="tiny", device="cpu", threads=1))
    assert isinstance(runner, TorchBackend)
    with pytest.raises(StartupError, match=r"no export for it that passed; make one with `polytask export tiny`"):
        load_backend(Settings(store=store, model="tiny", device="cpu", runner="onnxruntime", threads=1))


@pytest.mark.usefixtures("untouched")
def test_what_was_exported_runs(store: Path, tmp_path: Path) -> None:
    """The default is opened with its own golden answers, gives nearly the network's logits, and torch on demand."""
    golden = checkpoints.goldens()[:1]
    checkpoints.export(resolve(store, "tiny"), exported.write(tmp_path, exported.eight_bits("onnxruntime")), golden)
    checkpoint, runner = load_backend(Settings(store=store, model="tiny", device="cpu", threads=1))
    assert (runner.name, runner.precision) == ("onnxruntime", "int8")
    assert checkpoint.manifest.goldens == golden
    reference = open_backend("torch", "float32", None, tiny.network(), 1)
    batch = exported.batch([9, 12, 30])
    expected, found = reference.run(batch).sentence, runner.run(batch).sentence
    assert (expected - found).abs().mean() < 0.1 * expected.std()
    _, runner = load_backend(Settings(store=store, model="tiny", device="cpu", threads=1, runner="torch"))
    assert isinstance(runner, TorchBackend)


@pytest.mark.usefixtures("untouched")
def test_logits_of_rows_come_from_any_engine(tmp_path: Path) -> None:
    """Rows through an exported file get the logits that they get through torch."""
    file = exported.write(tmp_path, exported.graph())
    forwards = [
        Forward(open_backend(backend, "float32", path, tiny.network(), 1), tiny.tasks(), 0)
        for backend, path in (("torch", None), ("onnxruntime", file), ("openvino", file))
    ]
    expected, *others = [forward(*exported.rows()) for forward in forwards]
    for found in others:
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(torch.from_numpy(other), torch.from_numpy(one), atol=1e-4, rtol=0)


@pytest.mark.usefixtures("untouched")
def test_on_cuda_small_batches_are_recorded(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the rows and tokens that a batch may have and the longest row of a task; none where the settings say off."""
    asked: list[Buckets | None] = []

    def opened(network: Network, device: torch.device, buckets: Buckets | None) -> TorchBackend:
        assert device.type == "cuda"
        asked.append(buckets)
        return TorchBackend(network)

    monkeypatch.setattr("polytask.service.backends.selection.pick_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr("polytask.service.backends.selection.CudaBackend", opened)
    some: dict[str, Any] = {"store": store, "model": "tiny", "threads": 1}
    for settings in (
        Settings(**some),
        Settings(**some, max_rows=5, token_budget=100),
        Settings(**some, cuda_graphs="off"),
    ):
        load_backend(settings)
    default, bounded, none = asked
    assert default is not None
    assert default.fitting(100, 64) == (128, 64)
    assert default.fitting(1, 65) is None
    assert bounded is not None
    assert max(bucket.num_tokens for bucket in bounded.all) <= 100
    assert max(bucket.num_rows for bucket in bounded.all) == 5
    assert none is None
