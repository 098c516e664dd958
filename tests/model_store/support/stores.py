"""Contents for a store, and ways to damage them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from polytask.model.answers import ClassificationAnswer
from polytask.model.batch import collate
from polytask.model.encoding import Input, InputEncoder
from polytask.model.network import Network
from polytask.model.pretrained import _LAYER_PARTS, _PARTS, rename_published
from polytask.model_store.exports import Candidate, Exports, save_exports
from polytask.model_store.manifest import MANIFEST, MANIFEST_HASH, WEIGHTS, Base, Golden, manifest_hash
from polytask.model_store.save import NewVersion
from tests.support import tiny

# BERT's names come first among those of a part.
_PUBLISHED_PARTS = {ours: published for published, ours in reversed((_PARTS | _LAYER_PARTS).items())}
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")


def published(network: Network) -> dict[str, Tensor]:
    """The backbone of `network` under the names of a published BERT."""
    tensors = {}
    for name, tensor in network.state_dict().items():
        layer = _LAYER.fullmatch(name)
        part, _, kind = (layer[2] if layer else name).rpartition(".")
        if part in _PUBLISHED_PARTS:
            prefix = f"encoder.layer.{layer[1]}." if layer else ""
            tensors[f"{prefix}{_PUBLISHED_PARTS[part]}.{kind}"] = tensor
    return tensors


def write_base(folder: Path, network: Network) -> Base:
    """Writes the backbone of `network` as a published backbone into `folder`."""
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "tokenizer.json").write_text(tiny.tokenizer().to_str(), encoding="utf-8")
    save_file(published(network), folder / "model.safetensors")
    return Base(str(folder), sha256(folder / "model.safetensors"))


def sha256(path: Path) -> str:
    """The sha256 of a file, computed independently of the store."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(network: Network, base: Base | None = None, precision: torch.dtype = torch.float32) -> NewVersion:
    """Everything that a version of `network` needs, with a golden example, metrics and a card."""
    answer = ClassificationAnswer("good", 0.7, {"good": 0.7, "bad": 0.2, "neither": 0.1})
    return NewVersion(
        network=network,
        tokenizer_json=tiny.tokenizer().to_str(),
        base=base,
        precision=precision,
        metrics={"mood": {"accuracy": 0.9, "f1": 0.8}},
        baselines={"mood": {"accuracy": 0.4, "f1": 0.3}},
        goldens=(Golden("mood", Input("The cat sat."), asdict(answer)),),
        provenance={"recipe": {"seed": 1}},
        card="# Tiny\n",
    )


def fine_tuned(precision: torch.dtype = torch.float16) -> Network:
    """The tiny network with one of its backbone's tensors trained, and all but the backbone rounded to `precision`."""
    network = tiny.network()
    backbone = rename_published(published(network))
    with torch.no_grad():
        network.get_parameter(TRAINED).add_(0.01)
        for name, tensor in network.state_dict().items():
            if name not in backbone or name == TRAINED:
                tensor.copy_(tensor.to(precision))
    return network


_NOBODY = 65534

TRAINED = "encoder.layers.1.query.weight"
"""The tensor of the backbone that `fine_tuned` changes."""


def logits(network: Network) -> list[Tensor]:
    """The network's logits for the tiny inputs, all tasks in one batch."""
    encoder = InputEncoder(tiny.tokenizer())
    rows = [
        (task_id, encoding)
        for task_id, task in enumerate(tiny.tasks())
        for encoding in encoder.encode(task, [tiny.inputs()[task.name]])[0]
    ]
    batch = collate([encoding for _, encoding in rows], [task_id for task_id, _ in rows], token_level=True)
    with torch.inference_mode():
        outputs = network(batch, network.condition())
    return [outputs.sentence, outputs.token]


def rewrite_manifest(version: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the manifest and its hash, as someone who knows the format could."""
    fields = json.loads((version / MANIFEST).read_text(encoding="utf-8"))
    change(fields)
    text = json.dumps(fields)
    overwrite(version / MANIFEST, text.encode())
    overwrite(version / MANIFEST_HASH, manifest_hash(text.encode()).encode())


def rewrite_file(version: Path, name: str, content: bytes) -> None:
    """Replaces a file of a version and its hash in the manifest."""
    overwrite(version / name, content)
    rewrite_manifest(version, lambda fields: fields["files"].update({name: sha256(version / name)}))


def rewrite_weights(version: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Changes the tensors of a version and all hashes of them."""
    with safe_open(version / WEIGHTS, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name).clone() for name in list(file.keys())}
    change(tensors)
    changed = version.parent / "changed"
    save_file(tensors, changed, metadata)
    rewrite_file(version, WEIGHTS, changed.read_bytes())
    changed.unlink()


def write_exports(version: Path) -> None:
    """Gives a version an export of 8 bits with a golden answer of its own."""
    golden = contents(tiny.network()).goldens
    exports = Exports(
        version="demo/1",
        version_sha256=sha256(version / MANIFEST),
        files={"int8.onnx": hashlib.sha256(b"graph").hexdigest()},
        candidates=(
            Candidate("onnxruntime", "int8", "int8.onnx", "onnxruntime 1", {"1": 2.0}, {"mood": 0.1}, None, golden),
        ),
        cpu="a processor",
        threads=2,
        calibration=3,
        created="2026-01-01",
    )
    graph = version / "graph"
    graph.write_bytes(b"graph")
    save_exports(version, exports, {"int8.onnx": graph})


@contextmanager
def without_privileges(version: Path) -> Iterator[None]:
    """Makes this process, if it is root's, one of a user who owns the version and the folders down to its store only."""
    owned, above = [version.parents[1], *version.parents[1].rglob("*")], list(version.parents[2:-2])
    modes = {folder: folder.stat().st_mode for folder in above}
    if os.geteuid() == 0:
        for path in owned:
            os.chown(path, _NOBODY, _NOBODY)
        for folder, mode in modes.items():
            folder.chmod(mode | 0o011)
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
            for folder, mode in modes.items():
                folder.chmod(mode)


def flip_byte(path: Path, index: int) -> None:
    """Inverts one byte of a file; `index` wraps around its end."""
    content = bytearray(path.read_bytes())
    content[index % len(content)] ^= 0xFF
    overwrite(path, bytes(content))


def overwrite(path: Path, content: bytes) -> None:
    """Writes to a file of a version, which is read-only."""
    path.chmod(0o644)
    path.write_bytes(content)
