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
from polytask.model_store.manifest import FROM_BASE, WEIGHTS, Manifest, read_card, read_manifest
from polytask.model_store.tokenizer import check_hash, load_tokenizer


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

    Raises NotAVersion, FormatTooNew, ManifestInvalid, FileCorrupt, TensorMismatch, BaseMissing or BaseMismatch.
    """
    # Not built on the meta device: torch would import 70 MB of sympy, and filling the network would need copies.
    checkpoint, tensors = _open(path, torch.device("cpu"))
    checkpoint.network.load_state_dict(tensors)
    return checkpoint


def verify(path: Path) -> Manifest:
    """Does all checks of `load` without reading the weights into memory. Raises the errors of `load`."""
    checkpoint, _ = _open(path, torch.device("meta"))
    return checkpoint.manifest


def _open(path: Path, device: torch.device) -> tuple[Checkpoint, dict[str, Tensor]]:
    """The checkpoint with its network on `device` not yet filled, and the network's tensors, still on the disk."""
    manifest = read_manifest(path)
    _check_hashes(path, manifest)
    with torch.random.fork_rng(devices=[]), device:
        network = Network(manifest.network, manifest.tasks).eval()
    tensors = _tensors(path / WEIGHTS, manifest, network.state_dict())
    return Checkpoint(manifest, network, load_tokenizer(path, manifest), read_card(path)), tensors


def _check_hashes(path: Path, manifest: Manifest) -> None:
    for file, expected in manifest.files.items():
        check_hash(path / file, expected)


def _tensors(path: Path, manifest: Manifest, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's tensors from the file and the base. Raises TensorMismatch for a wrong name, shape or type."""
    stored, from_base = _read_safetensors(path)
    base = {} if manifest.base is None or not from_base else load_base(manifest.base, manifest.network)
    tensors = {name: base[name] for name in from_base if name in base} | stored
    problems = [
        _describe("lacks", expected.keys() - tensors.keys()),
        _describe("has unknown", {*stored, *from_base} - expected.keys()),
        _describe("has the wrong shape or type:", _mismatches(tensors, expected)),
    ]
    if any(problems):
        summary = "; ".join(problem for problem in problems if problem)
        raise TensorMismatch(path, f"does not fit the network in the manifest: {summary}", RESTORE)
    return tensors


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Sequence[str]]:
    try:
        with safe_open(path, "pt") as file:
            names, metadata = file.keys(), file.metadata() or {}
            return {name: file.get_tensor(name) for name in names}, metadata.get(FROM_BASE, "").splitlines()
    except SafetensorError as error:
        raise FileCorrupt(path, f"is not a safetensors file ({error})", RESTORE) from error


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
