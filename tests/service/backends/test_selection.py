"""Backend selection: by exports, installed packages and settings."""

from __future__ import annotations

import importlib.util
import re
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from polytask.model.network import Network
from polytask.model_store.errors import ExportInvalid
from polytask.model_store.exports import Candidate
from polytask.model_store.versions import resolve
from polytask.service.backends.forward import Forward
from polytask.service.backends.selection import load_backend, open_backend, select_backend, warn_of_two_onnx_runtimes
from polytask.service.backends.shape_buckets import Buckets
from polytask.service.backends.torch_cpu import TorchBackend
from polytask.service.config.settings import Settings
from polytask.service.errors import StartupError
from tests.service.support import checkpoints
from tests.support import exported, tiny


def candidate(backend: str, precision: str, refused: str | None = None, file: str | None = "a.onnx") -> Candidate:
    """A candidate without metrics and speeds."""
    return Candidate(backend, precision, file, f"{backend} 1", {}, {}, refused, ())


MEASURED = (
    candidate("onnxruntime", "int8"),
    candidate("openvino", "int8"),
    candidate("openvino", "bfloat16"),
    candidate("onnxruntime", "float32"),
    candidate("torch", "float32", file=None),
    candidate("openvino", "float32", "task 'mood' loses 0.70"),
)
"""Candidates in the order of an export, the fastest first."""


@pytest.fixture
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
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
    """The fastest candidate of all backends or of the named one is chosen; on CUDA torch, or a float32 file."""
    assert select_backend(MEASURED, runner, device) == chosen


@pytest.mark.usefixtures("no_openvino")
def test_auto_skips_backends_that_are_not_installed() -> None:
    """`auto` skips candidates whose backend is not installed."""
    assert select_backend(MEASURED[1:], "auto", "cpu") == MEASURED[3]


@pytest.mark.usefixtures("no_openvino")
def test_a_named_backend_that_is_not_installed_stops_the_start() -> None:
    """A named backend that is not installed stops the start, and the message says how to install it."""
    with pytest.raises(StartupError, match=r"openvino is not installed: pip install 'polytask\[openvino\]'"):
        select_backend(MEASURED, "openvino", "cpu")


def test_what_was_refused_is_not_served() -> None:
    """A refused candidate is not chosen, even if it is the only one of its backend."""
    assert select_backend(MEASURED[5:], "openvino", "cpu") is None


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with the tiny version, not exported."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    checkpoints.saved(tmp_path / "store")
    return tmp_path / "store"


@pytest.mark.usefixtures("untouched")
def test_without_exports_it_is_torch(store: Path) -> None:
    """A version without exports runs on torch; a named backend without an export stops the start."""
    _, backend = load_backend(Settings(store=store, model="tiny", device="cpu", threads=1))
    assert isinstance(backend, TorchBackend)
    with pytest.raises(StartupError, match=r"no export for it that passed; make one with `polytask export tiny`"):
        load_backend(Settings(store=store, model="tiny", device="cpu", runner="onnxruntime", threads=1))


@pytest.mark.usefixtures("untouched")
def test_what_was_exported_runs(store: Path, tmp_path: Path) -> None:
    """The default export is opened with its own golden answers and gives nearly the network's logits; torch runs on demand."""
    golden = checkpoints.goldens()[:1]
    checkpoints.export(resolve(store, "tiny"), exported.write(tmp_path, exported.eight_bits("onnxruntime")), golden)
    checkpoint, backend = load_backend(Settings(store=store, model="tiny", device="cpu", threads=1))
    assert (backend.name, backend.precision) == ("onnxruntime", "int8")
    assert checkpoint.manifest.goldens == golden
    reference = open_backend("torch", "float32", None, tiny.network(), 1)
    batch = exported.batch([9, 12, 30])
    expected, found = reference.run(batch).sentence, backend.run(batch).sentence
    assert (expected - found).abs().mean() < 0.1 * expected.std()
    _, backend = load_backend(Settings(store=store, model="tiny", device="cpu", threads=1, runner="torch"))
    assert isinstance(backend, TorchBackend)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("other", ["no graph", "other inputs"])
def test_an_export_that_is_none_is_named(tmp_path: Path, backend: str, other: str) -> None:
    """A file that is no network of this kind, whatever its hash, is an error of the store that says what to do."""
    file = tmp_path / "other.onnx"
    if other == "no graph":
        file.write_bytes(b"no graph" * 100)
    else:
        value = partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT, shape=[1])
        graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value("x")], [value("y")])
        onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), file)
    with pytest.raises(ExportInvalid, match=rf"other\.onnx: cannot be run by {backend}: .*polytask export"):
        open_backend(backend, "float32", file, tiny.network(), 1)


@pytest.mark.usefixtures("untouched")
def test_logits_are_the_same_from_any_backend(tmp_path: Path) -> None:
    """Rows get the same logits from an exported file as from torch."""
    file = exported.write(tmp_path, exported.graph())
    forwards = [
        Forward(open_backend(backend, "float32", path, tiny.network(), 1), tiny.tasks(), 0)
        for backend, path in (("torch", None), ("onnxruntime", file), ("openvino", file))
    ]
    expected, *others = [forward(*exported.rows()) for forward in forwards]
    for found in others:
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(torch.from_numpy(other), torch.from_numpy(one), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("device", "installed", "remedy"),
    [
        ("cpu", {"onnxruntime"}, None),
        ("cuda", {"onnxruntime-gpu"}, None),
        ("cpu", {"onnxruntime", "onnxruntime-gpu"}, "pip uninstall onnxruntime-gpu, then .* --no-deps onnxruntime$"),
        ("cuda", {"onnxruntime", "onnxruntime-gpu"}, "pip uninstall onnxruntime, then .* --no-deps onnxruntime-gpu$"),
    ],
)
def test_two_packages_of_onnx_runtime_are_a_warning(
    device: str,
    installed: set[str],
    remedy: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If both packages are installed, the warning names the one to remove and the one to install again."""

    def distribution(name: str) -> object:
        if name not in installed:
            raise PackageNotFoundError(name)
        return object()

    monkeypatch.setattr("polytask.service.backends.selection.distribution", distribution)
    warn_of_two_onnx_runtimes(device)
    assert len(caplog.messages) == (remedy is not None)
    assert remedy is None or re.search(remedy, caplog.text.strip())


@pytest.mark.usefixtures("untouched")
def test_the_start_looks_for_two_packages_of_onnx_runtime(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning comes at the start, whichever backend runs."""
    monkeypatch.setattr("polytask.service.backends.selection.distribution", lambda _: object())
    load_backend(Settings(store=store, model="tiny", device="cpu", threads=1))
    assert "onnxruntime and onnxruntime-gpu are both installed" in caplog.text


@pytest.mark.usefixtures("untouched")
def test_on_cuda_small_batches_are_recorded(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets go up to the limits of batches and the longest row of a task; there are none if the settings turn graphs off."""
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
