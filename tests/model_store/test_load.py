"""Loading: a version is loaded bit for bit, and any damage is a clear error."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers.models import WordPiece
from tokenizers.processors import BertProcessing, TemplateProcessing
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
    TokenizerMismatch,
    Unreadable,
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
    copies = [shutil.copytree(folder, tmp_path / "copies" / folder.parent.name / "1") for folder in (version, delta)]
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
        (lambda tensors: tensors.clear(), "has none.* and [0-9]+ more"),
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


@pytest.mark.parametrize(
    "sizes",
    [
        {"vocab_size": 10**12},
        {"vocab_size": 10**30},
        {"vocab_size": 8_000_000},
        {"num_layers": 10**9},
        {"hidden_size": 2**40},
        {"bottleneck_size": 10**12},
        {"max_positions": 10**12, "max_length": 10**12},
    ],
    ids=str,
)
def test_absurd_sizes_are_refused_before_memory_is_taken(version: Path, check: Check, sizes: dict[str, int]) -> None:
    """A network that is larger than its tensors is not built; the size is named."""
    stores.rewrite_manifest(version, lambda fields: fields["network"].update(sizes))
    with pytest.raises(TensorMismatch, match=f"has other sizes: .*{min(sizes)} {max(sizes.values())}"):
        check(version)


def test_an_absurd_header_is_not_read(version: Path, check: Check) -> None:
    """Weights that announce a header of many gigabytes are refused."""
    stores.rewrite_file(version, "weights.safetensors", (2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(FileCorrupt, match="header is too large"):
        check(version)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_are_finite(version: Path, check: Check, value: float) -> None:
    """One weight that is NaN or infinite stops the load, and its tensor is named."""
    stores.rewrite_weights(version, lambda tensors: tensors[_HEAD].view(-1)[3].fill_(value))
    with pytest.raises(TensorMismatch, match=f"has NaN or infinity in {_HEAD}"):
        check(version)


def _with_another_word(tokenizer: tokenizers.Tokenizer) -> None:
    tokenizer.add_tokens(["zebra"])


def _with_an_unknown_separator(tokenizer: tokenizers.Tokenizer) -> None:
    tokenizer.post_processor = BertProcessing(("[SEP]", 999), ("[CLS]", 2))


def _with_three_segments(tokenizer: tokenizers.Tokenizer) -> None:
    tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:2", [("[CLS]", 2), ("[SEP]", 3)])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_with_another_word, "has token ids up to 66, but the network has embeddings for 66 only"),
        (_with_an_unknown_separator, "has token ids up to 999"),
        (_with_three_segments, "has 3 segments, but the network has embeddings for 2"),
    ],
)
def test_every_token_has_an_embedding(
    version: Path, check: Check, change: Callable[[tokenizers.Tokenizer], None], named: str
) -> None:
    """A tokenizer with an id or a segment that the network has no embedding for is refused, also at saving."""
    tokenizer = tiny.tokenizer()
    change(tokenizer)
    stores.rewrite_file(version, "tokenizer.json", tokenizer.to_str().encode())
    with pytest.raises(TokenizerMismatch, match=named):
        check(version)
    with pytest.raises(TokenizerMismatch, match=named):
        save(version.parents[1], "demo", replace(stores.contents(tiny.network()), tokenizer_json=tokenizer.to_str()))


def test_a_tokenizer_without_special_tokens_is_refused(version: Path, check: Check) -> None:
    """A tokenizer that cannot begin and end a row is refused."""
    plain = tokenizers.Tokenizer(WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))  # noqa: S106, no password
    stores.rewrite_file(version, "tokenizer.json", plain.to_str().encode())
    with pytest.raises(TokenizerMismatch, match=r"tokenizer\.json: cannot encode inputs .*\[SEP\]"):
        check(version)


def test_a_card_that_is_not_text_is_refused(version: Path, check: Check) -> None:
    """A card that is not in UTF-8 is a store error that names it, even if its hash is right."""
    stores.rewrite_file(version, "card.md", b"\xff")
    with pytest.raises(FileCorrupt, match=r"card\.md: is not text in UTF-8"):
        check(version)


@pytest.mark.parametrize(
    "file", ["weights.safetensors", "tokenizer.json", "card.md", "manifest.json", "manifest.sha256"]
)
def test_what_this_user_may_not_read_is_named(version: Path, check: Check, file: str) -> None:
    """A file without permission to read it is a store error that names it; so is a folder above it."""
    with stores.without_privileges(version):
        check(version)
        for path in (version / file, version, version.parent):
            mode = path.stat().st_mode
            path.chmod(0)
            try:
                with pytest.raises(Unreadable, match=f"{path}.*Permission denied.*let this user read it"):
                    check(version)
            finally:
                path.chmod(mode)


_ODD = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 1, 7, 10**12, 10**30, 0.5, -1e308, 1e308, math.nan, math.inf, "", "x", "\0", "é"]
    ),
    st.sampled_from([[], {}, [[]], [0], ["x"], {"x": 1}, "\ud83d", "../x", "a" * 300]),
)


def _mutated(draw: Callable[[int], int], values: Any, odd: Any) -> Any:
    """JSON values with one of them replaced: at each step into the values, `draw` chooses among so many."""
    entries: list[Any] = list(values) if isinstance(values, dict) else list(range(len(values)))
    key = entries[draw(len(entries))]
    if isinstance(values[key], dict | list) and values[key] and draw(4):
        odd = _mutated(draw, values[key], odd)
    if isinstance(values, dict):
        return {**values, key: odd}
    return [*values[:key], odd, *values[key + 1 :]]


def _replace(values: dict[str, Any], fields: dict[str, Any]) -> None:
    fields.clear()
    fields.update(values)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), file=st.sampled_from(["manifest.json", "manifest.json", "tokenizer.json", "exports.json"]))
def test_no_json_ends_in_another_error(version: Path, data: st.DataObject, file: str) -> None:
    """Whatever value stands anywhere in a JSON file of a version, with all hashes right: it is fine, or a StoreError."""

    def draw(number: int) -> int:
        return data.draw(st.integers(0, number - 1))

    stores.write_exports(version)
    path = version / "exports" / file if file == "exports.json" else version / file
    before = {name: name.read_bytes() for name in (path, version / "manifest.json", version / "manifest.sha256")}
    values = _mutated(draw, json.loads(before[path]), data.draw(_ODD))
    try:
        if file == "manifest.json":
            stores.rewrite_manifest(version, partial(_replace, values))
        elif file == "tokenizer.json":
            stores.rewrite_file(version, file, json.dumps(values).encode())
        else:
            stores.overwrite(path, json.dumps(values).encode())
        with contextlib.suppress(StoreError):
            verify(version)
            load(version)
    finally:
        for name, content in before.items():
            stores.overwrite(name, content)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 4000), content=st.binary(max_size=12))
def test_no_bytes_of_weights_end_in_another_error(version: Path, place: int, content: bytes) -> None:
    """Whatever bytes stand in the header or the values of the weights, with the right hash: fine, or a StoreError."""
    before = (version / "weights.safetensors").read_bytes()
    stores.rewrite_file(version, "weights.safetensors", before[:place] + content + before[place + len(content) :])
    try:
        with contextlib.suppress(StoreError):
            load(version)
    finally:
        stores.rewrite_file(version, "weights.safetensors", before)


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
    with pytest.raises(FileCorrupt, match=r"tokenizer\.json: is not (a tokenizer|text in UTF-8)"):
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
