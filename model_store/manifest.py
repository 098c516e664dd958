"""Manifest of a version: everything about it but the weights. Reading is strict: an unknown key is an error.

`manifest.json` holds the sha256 of the other files, `manifest.sha256` that of `manifest.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from polytask.model.config import NetworkConfig, ParameterCounts
from polytask.model.encoding import Input
from polytask.model.tasks import Kind, Task, check_tasks
from polytask.model_store.decoding import DecodingError, decode
from polytask.model_store.errors import FileCorrupt, FormatTooNew, ManifestInvalid, NotAVersion

FORMAT = 3
MANIFEST = "manifest.json"
MANIFEST_HASH = "manifest.sha256"
WEIGHTS = "weights.safetensors"
TOKENIZER = "tokenizer.json"
CARD = "card.md"
FROM_BASE = "from_base"
"""Key in the metadata of the weights file: names of the tensors that are taken from the base, one a line."""

_MAX_ANSWER_TOKENS = 30
"""Tokens of the longest answer of a span task in formats 1 and 2."""

_RESTORE = "save the version again or restore it from where it came from"


@dataclass(frozen=True, slots=True)
class Base:
    """A published backbone: its Hugging Face name or a folder, and the sha256 of its `model.safetensors`."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Golden:
    """A golden example: an input and the saved network's answer to it, as `dataclasses.asdict` with tuples."""

    task: str
    input: Input
    answer: dict[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "answer", _lists_as_tuples(self.answer))


@dataclass(frozen=True, slots=True)
class Manifest:
    """Description of a version.

    `files`: sha256 of each other file of the version. `metrics`, `baselines`: task -> metric -> value on validation, of
    the network and of the trivial baseline. `provenance`: any JSON; `created` is the time of saving. `parameters`:
    numbers of parameters; None for a version of format 1.
    """

    name: str
    version: int
    network: NetworkConfig
    tasks: tuple[Task, ...]
    base: Base | None
    files: dict[str, str]
    metrics: dict[str, dict[str, float]]
    baselines: dict[str, dict[str, float]]
    goldens: tuple[Golden, ...]
    provenance: dict[str, Any]
    parameters: ParameterCounts | None = None
    format: int = FORMAT


def to_json(manifest: Manifest) -> str:
    """The text of `manifest.json`. Raises ManifestInvalid for a manifest that `from_json` would refuse."""
    path = Path(manifest.name) / str(manifest.version) / MANIFEST
    values = asdict(manifest)
    try:
        text = json.dumps({"format": values.pop("format"), **values}, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ManifestInvalid(path, f"cannot be written as JSON: {error}", "give it plain finite values") from error
    from_json(text, path)
    return text + "\n"


def from_json(text: str, path: Path) -> Manifest:
    """The manifest in `text`, upgraded to this format. `path` is only named in errors.

    Raises FormatTooNew before any other check, or ManifestInvalid, which names the key.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ManifestInvalid(path, f"is not JSON: {error}", _RESTORE) from error
    format_number = values.get("format") if isinstance(values, dict) else None
    if type(format_number) is int and format_number > FORMAT:
        raise FormatTooNew(
            path,
            f"has format {format_number}, this release reads format {FORMAT} and older",
            "install a newer release of polytask",
        )
    try:
        manifest = decode(
            Manifest, _upgrade(values) if type(format_number) is int and 0 < format_number < FORMAT else values
        )
        _check(manifest)
    except (DecodingError, ValueError) as error:
        raise ManifestInvalid(path, str(error), _RESTORE) from error
    return manifest


def read_manifest(version: Path) -> Manifest:
    """The manifest of the version in folder `version`, after a check of its hash.

    Raises NotAVersion, FormatTooNew, ManifestInvalid or FileCorrupt.
    """
    path = version / MANIFEST
    if not path.is_file():
        raise NotAVersion(version, f"has no {MANIFEST}", "give the folder of a saved version, such as STORE/NAME/1")
    content = path.read_bytes()
    manifest = from_json(content.decode(errors="replace"), path)
    recorded = version / MANIFEST_HASH
    if not recorded.is_file() or recorded.read_text(errors="replace") != manifest_hash(content):
        raise FileCorrupt(path, f"does not have the hash in {MANIFEST_HASH}: it was changed after saving", _RESTORE)
    return manifest


def read_card(version: Path) -> str:
    """The card of the version in folder `version`, in Markdown."""
    return (version / CARD).read_text(encoding="utf-8")


def manifest_hash(content: bytes) -> str:
    """The text of `manifest.sha256`, in the format of sha256sum."""
    return f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n"


def _upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """A manifest of an older format as one of this format: newer keys get the values that its format implied."""
    new: dict[str, Any] = {"format": FORMAT}
    if values["format"] == 1:
        new["parameters"] = None
        if isinstance(values.get("network"), dict):
            switches = {field.name: field.default for field in fields(NetworkConfig) if field.default is not MISSING}
            new["network"] = json.loads(json.dumps(switches)) | values["network"]
    if isinstance(values.get("tasks"), list):
        new["tasks"] = [
            _upgrade_task(task, values["format"]) if isinstance(task, dict) else task for task in values["tasks"]
        ]
    return values | new


def _upgrade_task(task: dict[str, Any], format_number: int) -> dict[str, Any]:
    implied = {"max_answer_tokens": _MAX_ANSWER_TOKENS if task.get("kind") == Kind.SPAN else None}
    return implied | ({"raw_output": False} if format_number == 1 else {}) | task


def _check(manifest: Manifest) -> None:
    if manifest.format != FORMAT:
        raise ValueError(f"key 'format': {manifest.format} was never in use")
    check_tasks(manifest.tasks, manifest.network.max_length)
    task_names = {task.name for task in manifest.tasks}
    for key, names in (
        ("metrics", manifest.metrics),
        ("baselines", manifest.baselines),
        ("goldens", [golden.task for golden in manifest.goldens]),
    ):
        _check_task_names(key, list(names), task_names)
    for required in (WEIGHTS, TOKENIZER, CARD):
        if required not in manifest.files:
            raise ValueError(f"key 'files' lacks {required}")
    for file in manifest.files:
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            raise ValueError(f"key 'files' names {file!r}, outside the version")


def _check_task_names(key: str, names: Sequence[str], task_names: set[str]) -> None:
    unknown = sorted(set(names) - task_names)
    if unknown:
        raise ValueError(f"key {key!r} names tasks that are not in 'tasks': {', '.join(unknown)}")


def _lists_as_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists_as_tuples(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_lists_as_tuples(entry) for entry in value)
    return value
