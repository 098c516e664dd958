"""Loading: a version is loaded bit for bit, and any damage is a clear error."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from polytask.model.config import Pooling
from polytask.model.network import Network
from polytask.model_store.errors import (
    BaseMismatch,
    BaseMissing,
    FileCorrupt,
    FormatTooNew,
    ManifestInvalid,
    NotAVersion,
    StoreError,
    TensorMismatch,
)
from polytask.model_store.load import load, verify
from polytask.model_store.manifest import FORMAT, Base, Manifest, read_manifest
from polytask.model_store.save import save
from tests.model_store.support import stores
from tests.support import tiny

_HEAD = "heads.sentence.weight"

Check = Callable[[Path], object]


@pytest.fixture(params=[load, verify])
def check(request: pytest.FixtureRequest) -> Check:
    """`load` and `verify`, which must refuse the same versions."""
    function: Check = request.param
    return function


def same_weights(left: Network, right: Network) -> bool:
    """Whether two networks have equal tensors."""
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_self_contained_version_comes_back(version: Path) -> None:
    """Network, tasks, tokenizer and manifest are loaded as they were saved, with the network in eval mode."""
    checkpoint = load(version)
    assert same_weights(checkpoint.network, tiny.network())
    assert checkpoint.network.tasks == tiny.tasks()
    assert checkpoint.tokenizer.to_str() == tiny.tokenizer().to_str()
    assert checkpoint.manifest == read_manifest(version)
    assert not checkpoint.network.training
    assert {parameter.dtype for parameter in checkpoint.network.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float32])
def test_a_delta_comes_back(store: Path, base: Base, precision: torch.dtype) -> None:
    """Base and delta together give the saved network, to the bit, in any precision."""
    network = stores.fine_tuned(precision)
    assert same_weights(load(save(store, "demo", stores.contents(network, base, precision))).network, network)


def test_a_delta_may_have_other_shapes_than_its_base(store: Path, base: Base) -> None:
    """A tensor with another shape than the base's is stored, not taken from the base."""
    torch.manual_seed(0)
    network = Network(replace(tiny.config(), max_positions=80, pooling=Pooling.CLS), tiny.tasks())
    assert same_weights(load(save(store, "demo", stores.contents(network, base))).network, network)


def test_a_new_process_gives_the_same_logits_to_the_bit(version: Path, delta: Path, tmp_path: Path) -> None:
    """Another process, with a copy of the folder only, computes the saved network's logits to the bit."""
    copies = [shutil.copytree(folder, tmp_path / "copies" / folder.parent.name) for folder in (version, delta)]
    shutil.rmtree(tmp_path / "store")
    code = (
        "import sys; from pathlib import Path; from polytask.model_store.load import load; from tests.model_store.support import stores\n"
        # The order of sums depends on the number of threads.
        f"import torch; torch.set_num_threads({torch.get_num_threads()})\n"
        "for version in sys.argv[1:]:\n"
        "    for logits in stores.logits(load(Path(version)).network): sys.stdout.buffer.write(logits.numpy().tobytes())"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, *copies],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        check=True,
    )
    expected = [*stores.logits(tiny.network()), *stores.logits(stores.fine_tuned())]
    assert finished.stdout == b"".join(logits.numpy().tobytes() for logits in expected)


def test_a_loaded_network_owns_its_weights(version: Path) -> None:
    """Damage to the file after loading does not change the network, and the network can be trained."""
    network = load(version).network
    size = (version / "weights.safetensors").stat().st_size
    stores.overwrite(version / "weights.safetensors", b"\xff" * size)
    assert same_weights(network, tiny.network())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_loading_draws_no_random_numbers(version: Path) -> None:
    """The state of the random generator is the same after loading as before."""
    before = torch.random.get_rng_state()
    load(version)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_verify_gives_the_manifest(delta: Path) -> None:
    """A version that can be loaded passes `verify`, which returns its manifest."""
    assert verify(delta) == read_manifest(delta)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file=st.sampled_from(["weights.safetensors", "tokenizer.json", "card.md", "manifest.json", "manifest.sha256"]),
    index=st.integers(min_value=0, max_value=10**6),
)
def test_a_flipped_byte_is_found(version: Path, file: str, index: int) -> None:
    """A flipped byte, anywhere in any file, stops the load; flipped back, the version loads again."""
    stores.flip_byte(version / file, index)
    expected = (FileCorrupt, ManifestInvalid) if file.startswith("manifest") else FileCorrupt
    try:
        with pytest.raises(expected, match=Path(file).stem):
            verify(version)
    finally:
        stores.flip_byte(version / file, index)
    verify(version)


@pytest.mark.parametrize("file", ["weights.safetensors", "tokenizer.json", "card.md"])
def test_a_missing_file_is_named(version: Path, check: Check, file: str) -> None:
    """A listed file that is missing stops the load."""
    (version / file).unlink()
    with pytest.raises(FileCorrupt, match=f"{file}: is missing"):
        check(version)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tensors: tensors.pop(_HEAD), f"lacks {_HEAD}"),
        (lambda tensors: tensors.update(stray=torch.zeros(1)), "has unknown stray"),
        (lambda tensors: tensors.update({_HEAD: torch.zeros(2, 2)}), f"wrong shape or type: {_HEAD} .*2, 2"),
        (lambda tensors: tensors.update({_HEAD: tensors[_HEAD].to(torch.int32)}), f"shape or type: {_HEAD} .*int32"),
        (lambda tensors: tensors.clear(), "lacks .* and [0-9]+ more"),
        (lambda tensors: tensors.update({"a.weight": tensors.pop(_HEAD)}), f"lacks {_HEAD}; has unknown a.weight"),
    ],
)
def test_tensors_must_be_those_of_the_network(
    version: Path, check: Check, change: Callable[[dict[str, Tensor]], object], named: str
) -> None:
    """Missing, unknown and misshapen tensors are named, even if all hashes are right."""
    stores.rewrite_weights(version, change)
    with pytest.raises(TensorMismatch, match=named):
        check(version)


def test_the_base_does_not_fill_in_for_a_lost_tensor(delta: Path, check: Check) -> None:
    """A trained tensor that is missing from a delta is not taken from the base."""
    stores.rewrite_weights(delta, lambda tensors: tensors.pop(stores.TRAINED))
    with pytest.raises(TensorMismatch, match=f"lacks {stores.TRAINED}"):
        check(delta)


def test_the_network_must_be_that_of_the_weights(version: Path, check: Check) -> None:
    """A manifest whose network has other conditional modules does not fit the weights."""
    stores.rewrite_manifest(version, lambda fields: fields["network"].update(conditional_bottleneck=[1]))
    with pytest.raises(TensorMismatch, match=r"unknown encoder\.layers\.0\.bottleneck"):
        check(version)


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        (lambda fields: fields.update(format=FORMAT + 1), FormatTooNew, "install a newer release"),
        (lambda fields: fields.update(colour="red"), ManifestInvalid, "unknown key 'colour'"),
        (lambda fields: fields.pop("goldens"), ManifestInvalid, "lacks key 'goldens'"),
    ],
)
def test_the_manifest_is_read_strictly(
    version: Path, check: Check, change: Callable[[dict[str, Any]], object], error: type[StoreError], named: str
) -> None:
    """A newer format, an unknown key and a missing key stop the load, each with its error."""
    stores.rewrite_manifest(version, change)
    with pytest.raises(error, match=named):
        check(version)


def test_a_wrong_base_is_refused(delta: Path, base: Base, check: Check) -> None:
    """A base other than the one of the delta stops the load."""
    stores.flip_byte(Path(base.name) / "model.safetensors", -1)
    with pytest.raises(BaseMismatch, match=f"expected {base.sha256}"):
        check(delta)


def test_a_missing_base_is_named(delta: Path, base: Base, check: Check) -> None:
    """A delta without its base cannot be loaded, and the error names the base."""
    (Path(base.name) / "model.safetensors").unlink()
    with pytest.raises(BaseMissing, match=r"has no model\.safetensors"):
        check(delta)


class _Payload:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[Path], object], tuple[Path]]:
        return Path.mkdir, (self._path,)


def test_a_pickle_is_not_executed(version: Path, check: Check, tmp_path: Path) -> None:
    """A pickle in place of the weights, with the right hash, is refused and its code does not run."""
    sign = tmp_path / "executed"
    stores.rewrite_file(version, "weights.safetensors", pickle.dumps(_Payload(sign)))
    with pytest.raises(FileCorrupt, match="not a safetensors file"):
        check(version)
    assert not sign.exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[1, 2]"])
def test_a_file_that_is_no_tokenizer_is_refused(version: Path, check: Check, content: bytes) -> None:
    """A tokenizer that cannot be parsed is a store error, even if its hash is right."""
    stores.rewrite_file(version, "tokenizer.json", content)
    with pytest.raises(FileCorrupt, match=r"tokenizer\.json: is not a tokenizer"):
        check(version)


def test_another_folder_is_no_version(tmp_path: Path, check: Check) -> None:
    """A folder without a version is refused."""
    with pytest.raises(NotAVersion):
        check(tmp_path)


def test_errors_name_the_path(version: Path) -> None:
    """The message of a damaged version begins with the damaged file."""
    stores.flip_byte(version / "card.md", 0)
    with pytest.raises(FileCorrupt, match=str(version / "card.md")):
        load(version)


def test_a_manifest_is_all_that_a_network_needs(version: Path) -> None:
    """The network built from the manifest has exactly the stored shapes."""
    manifest: Manifest = read_manifest(version)
    rebuilt = Network(manifest.network, manifest.tasks).state_dict()
    assert {name: tensor.shape for name, tensor in rebuilt.items()} == {
        name: tensor.shape for name, tensor in tiny.network().state_dict().items()
    }
