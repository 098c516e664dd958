"""Saving and copying of a version: written under a temporary name, renamed once all is on the disk, then read-only."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from polytask.model.network import Network, parameter_counts
from polytask.model_store.backbones import load_base
from polytask.model_store.durable_files import flush, is_locked, locked, sha256_of, writing
from polytask.model_store.errors import PointerCorrupt
from polytask.model_store.exports import read_exports, save_exports
from polytask.model_store.load import verify
from polytask.model_store.manifest import (
    CARD,
    FROM_BASE,
    MANIFEST,
    MANIFEST_HASH,
    TOKENIZER,
    WEIGHTS,
    Base,
    Golden,
    Manifest,
    manifest_hash,
    to_json,
)
from polytask.model_store.tokenizer import check_tokenizer
from polytask.model_store.versions import check_name, promotions, versions

_TEMPORARY = ".saving-"


@dataclass(frozen=True, slots=True)
class NewVersion:
    """Content of a version to save.

    `base`: the backbone whose tensors need not be stored; None for a self-contained version. `precision`: dtype of the
    stored tensors; `network` must already be rounded to it, as a version holds exactly the evaluated values. `card`:
    Markdown. The other fields are as in `Manifest`.
    """

    network: Network
    tokenizer_json: str
    base: Base | None
    precision: torch.dtype
    metrics: dict[str, dict[str, float]]
    baselines: dict[str, dict[str, float]]
    goldens: tuple[Golden, ...]
    provenance: dict[str, Any]
    card: str
    references: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


def check_writable(store: Path, name: str) -> None:
    """Checks that a version of `name` can be saved, and leaves nothing behind. Raises NameInvalid or StoreUnwritable.

    Makes and removes a temporary folder in the deepest existing parent of the folder that `save` would write to.
    """
    folder = store / check_name(name)
    with writing(folder):
        existing_folder = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=existing_folder))
        # A concurrent save may remove it as abandoned.
        with suppress(FileNotFoundError):
            temporary.rmdir()


def save(store: Path, name: str, new_version: NewVersion) -> Path:
    """Saves the next version of checkpoint `name`, whole or not at all, and returns its folder.

    Provenance gets `created`, the time, unless it has one. Raises NameInvalid, BaseMissing, BaseMismatch,
    ManifestInvalid, TokenizerMismatch or StoreUnwritable; ValueError for a tensor that `precision` would change.
    """
    folder = store / check_name(name)
    tokenizer = tokenizers.Tokenizer.from_str(new_version.tokenizer_json)
    check_tokenizer(tokenizer, new_version.network.config, folder)
    with writing(folder), _temporary_folder(folder) as temporary:
        _write_weights(temporary / WEIGHTS, new_version)
        _write_text(temporary / TOKENIZER, new_version.tokenizer_json)
        _write_text(temporary / CARD, new_version.card)
        return _number(store, name, temporary, lambda number: _manifest(name, number, new_version, temporary))


def copy(version: Path, store: Path, name: str) -> Path:
    """Copies the version in folder `version` with its exports to the next version of `name` in `store`.

    Returns the new folder. Raises NameInvalid, StoreUnwritable, or the errors of `verify`: what is damaged is not copied.
    """
    manifest = verify(version)
    exports = read_exports(version, manifest.tasks)
    provenance = {**manifest.provenance, "copied_from": f"{manifest.name}/{manifest.version}"}
    folder = store / check_name(name)
    with writing(folder), _temporary_folder(folder) as temporary:
        for file in manifest.files:
            shutil.copyfile(version / file, temporary / file)
            _finish(temporary / file)
        copied = _number(
            store,
            name,
            temporary,
            lambda number: replace(manifest, name=name, version=number, provenance=provenance),
        )
    if exports is not None:
        source, description = exports
        own = replace(description, version=f"{name}/{copied.name}", version_sha256=sha256_of(copied / MANIFEST))
        save_exports(copied, own, {file: source / file for file in own.files})
    return copied


def _number(store: Path, name: str, temporary: Path, manifest: Callable[[int], Manifest]) -> Path:
    """Makes the files in `temporary` the next version of `name`, with its manifest, and returns its folder."""
    folder = store / name
    with locked(folder):
        number = _next_version(store, name)
        _write_manifest(temporary, manifest(number))
        flush(temporary)
        temporary.rename(folder / str(number))
    flush(folder)
    flush(store)
    return folder / str(number)


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """A new folder in `folder`, removed if the block fails. Its lock shows other saves that its owner is alive."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with locked(folder):
            _remove_abandoned(folder)
            temporary = folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
            temporary.mkdir()
            stack.enter_context(locked(temporary))
        try:
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _remove_abandoned(folder: Path) -> None:
    for temporary in folder.glob(f"{_TEMPORARY}*"):
        # A concurrent save that fails may remove its folder first.
        with suppress(FileNotFoundError):
            if not is_locked(temporary):
                shutil.rmtree(temporary)


def _next_version(store: Path, name: str) -> int:
    # The number of a promoted version that was deleted is not used again: the pointer must not mean another version.
    taken = versions(store, name)
    with suppress(PointerCorrupt):
        taken += promotions(store, name)
    return max(taken, default=0) + 1


def _manifest(name: str, version: int, new_version: NewVersion, folder: Path) -> Manifest:
    return Manifest(
        name=name,
        version=version,
        network=new_version.network.config,
        tasks=new_version.network.tasks,
        base=new_version.base,
        files={file: sha256_of(folder / file) for file in (WEIGHTS, TOKENIZER, CARD)},
        metrics=new_version.metrics,
        baselines=new_version.baselines,
        references=new_version.references,
        goldens=new_version.goldens,
        provenance={"created": datetime.now(UTC).isoformat(timespec="seconds"), **new_version.provenance},
        parameters=parameter_counts(new_version.network),
    )


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    text = to_json(manifest)
    _write_text(folder / MANIFEST, text)
    _write_text(folder / MANIFEST_HASH, manifest_hash(text.encode()))


def _write_text(path: Path, text: str) -> None:
    # Bytes, so that line ends are not converted.
    path.write_bytes(text.encode())
    _finish(path)


def _write_weights(path: Path, new_version: NewVersion) -> None:
    base = {} if new_version.base is None else load_base(new_version.base, new_version.network.config)
    stored, from_base = {}, []
    for name, tensor in new_version.network.state_dict().items():
        value = tensor.detach().float().cpu()
        if name in base and same_bits(value, base[name]):
            from_base.append(name)
        else:
            stored[name] = _cast(name, value, new_version.precision)
    try:
        save_file(stored, path, {"format": "pt", FROM_BASE: "\n".join(from_base)})
    except SafetensorError as error:  # the tensors are valid, so writing has failed
        raise OSError(str(error)) from error
    _finish(path)


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors hold the same numbers in float32: 0.0 is not -0.0, and a NaN is itself."""
    left, right = (tensor.detach().float().cpu().contiguous().view(torch.int32) for tensor in (left, right))
    return torch.equal(left, right)


def _cast(name: str, value: Tensor, precision: torch.dtype) -> Tensor:
    stored = value.to(precision).contiguous()
    if not torch.equal(stored.float(), value):
        raise ValueError(
            f"storing {name} in {precision} would change its values; round the network before evaluating it"
        )
    return stored


def _finish(path: Path) -> None:
    path.chmod(0o444)
    flush(path)
