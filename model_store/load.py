"""Loading of a version: every hash is checked, every tensor must match, and no code of the version is executed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from polytask.model.network import Network
from polytask.model_store.backbones import load_base
from polytask.model_store.errors import RESTORE, FileCorrupt, TensorMismatch
from polytask.model_store.exports import exported_file, read_exports
from polytask.model_store.manifest import FROM_BASE, WEIGHTS, Manifest, read_card, read_manifest
from polytask.model_store.network_sizes import size_mismatches
from polytask.model_store.reading import MIB, check_hash, opened, reading
from polytask.model_store.tokenizer import load_tokenizer

_MOST_HEADER_BYTES = 16 * MIB
"""Of a weights file, which describes each tensor in about a hundred."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A version in memory: its network in float32 on the CPU and in eval mode, and the tokenizer of its training.

    `card`: its text in Markdown.
    """

    manifest: Manifest
    network: Network
    tokenizer: tokenizers.Tokenizer
    card: str = ""


def load(path: Path) -> Checkpoint:
    """The version in folder `path`.

    Raises NotAVersion, NameMismatch, FormatTooNew, ManifestInvalid, FileCorrupt, Unreadable, TokenizerMismatch,
    TensorMismatch, BaseMissing or BaseMismatch.
    """
    # Not built on the meta device: torch would import 70 MB of sympy, and filling the network would need copies.
    checkpoint, tensors = _open(path, torch.device("cpu"))
    checkpoint.network.load_state_dict(tensors)
    return checkpoint


def verify(path: Path) -> Manifest:
    """Does all checks of `load` without taking memory for the weights, and checks the exports.

    Raises the errors of `load`, or ExportInvalid.
    """
    checkpoint, _ = _open(path, torch.device("meta"))
    exports = read_exports(path, checkpoint.manifest.tasks)
    if exports is not None:
        for name in exports[1].files:
            exported_file(*exports, name)
    return checkpoint.manifest


def _open(path: Path, device: torch.device) -> tuple[Checkpoint, dict[str, Tensor]]:
    """The checkpoint with its network on `device` not yet filled, and the network's tensors, still on the disk."""
    manifest = read_manifest(path)
    for file, expected in manifest.files.items():
        check_hash(path / file, expected)
    tokenizer, card, weights = load_tokenizer(path, manifest), read_card(path, manifest), path / WEIGHTS
    stored, from_base = _read_safetensors(weights)
    base = {} if manifest.base is None or not from_base else load_base(manifest.base, manifest.network)
    tensors = {name: base[name] for name in from_base if name in base} | stored
    # First of all: building the network takes the memory that its sizes need.
    _require_none(weights, _describe("has other sizes:", size_mismatches(manifest.network, tensors)))
    with torch.random.fork_rng(devices=[]), device:
        network = Network(manifest.network, manifest.tasks).eval()
    needed = network.state_dict()
    _require_none(
        weights,
        _describe("lacks", needed.keys() - tensors.keys()),
        _describe("has unknown", {*stored, *from_base} - needed.keys()),
        _describe("has the wrong shape or type:", _mismatches(tensors, needed)),
    )
    not_finite = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    _require_none(weights, _describe("has NaN or infinity in", not_finite))
    return Checkpoint(manifest, network, tokenizer, card), tensors


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Sequence[str]]:
    """The tensors, mapped from the file, and the names of those that are the base's."""
    with opened(path) as file:
        if int.from_bytes(file.read(8), "little") > _MOST_HEADER_BYTES:
            raise FileCorrupt(path, "is not a safetensors file (its header is too large)", RESTORE)
    try:
        with reading(path), safe_open(path, "pt") as tensors:
            names, metadata = tensors.keys(), tensors.metadata() or {}
            return {name: tensors.get_tensor(name) for name in names}, metadata.get(FROM_BASE, "").splitlines()
    except SafetensorError as error:
        raise FileCorrupt(path, f"is not a safetensors file ({error})", RESTORE) from error


def _require_none(path: Path, *problems: str) -> None:
    if any(problems):
        summary = "; ".join(problem for problem in problems if problem)
        raise TensorMismatch(path, f"does not fit the network in the manifest: {summary}", RESTORE)


def _is_finite(tensor: Tensor) -> bool:
    # Minimum and maximum need no memory, and are NaN where a value is.
    return not tensor.numel() or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def _mismatches(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    return [
        f"{name} ({tensors[name].dtype} {list(tensors[name].shape)} for {list(tensor.shape)})"
        for name, tensor in expected.items()
        if name in tensors
        if tensors[name].shape != tensor.shape or not tensors[name].is_floating_point()
    ]


def _describe(problem: str, names: Iterable[str], shown: int = 5) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - shown} more" if len(ordered) > shown else ""
    return f"{problem} {', '.join(ordered[:shown])}{more}" if ordered else ""
