"""Manifest of a version: everything about it but the weights. Reading is strict: an unknown key is an error.

`manifest.json` holds the sha256 of the other files, `manifest.sha256` that of `manifest.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, cast

from polytask.model import answers
from polytask.model.config import NetworkConfig, ParameterCounts
from polytask.model.encoding import Input
from polytask.model.tasks import CANDIDATE_KINDS, Kind, Task, check_tasks
from polytask.model_store.decoding import DecodingError, decode, parse
from polytask.model_store.errors import (
    FileCorrupt,
    FormatTooNew,
    ManifestInvalid,
    NameMismatch,
    NotAVersion,
)
from polytask.model_store.reading import MIB, read_bytes, read_hashed

FORMAT = 4
MANIFEST = "manifest.json"
MANIFEST_HASH = "manifest.sha256"
WEIGHTS = "weights.safetensors"
TOKENIZER = "tokenizer.json"
CARD = "card.md"
FROM_BASE = "from_base"
"""Key in the metadata of the weights file: names of the tensors that are taken from the base, one a line."""

_MAX_ANSWER_TOKENS = 30
"""Tokens of the longest answer of a span task in formats 1 and 2."""

_ANSWERS: dict[Kind, type[answers.Answer]] = {
    Kind.CLASSIFICATION: answers.ClassificationAnswer,
    Kind.MULTILABEL: answers.MultilabelAnswer,
    Kind.REGRESSION: answers.RegressionAnswer,
    Kind.RANKING: answers.RankingAnswer,
    Kind.MULTIPLE_CHOICE: answers.MultipleChoiceAnswer,
    Kind.TAGGING: answers.TaggingAnswer,
    Kind.SPAN: answers.SpanAnswer,
}

_MOST_BYTES = 64 * MIB
_MOST_CARD_BYTES = 16 * MIB

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
    the network and of the trivial baseline. `references`: name -> task -> metric -> value, of simple models that were
    trained on the same examples, where they apply. `provenance`: any JSON; `created` is the time of saving. `parameters`:
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
    references: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
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
        values = parse(text)
    except DecodingError as error:
        raise ManifestInvalid(path, str(error), _RESTORE) from error
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
    """The manifest of the version in folder `version`, NAME/VERSION, after a check of its hash.

    Raises NotAVersion, NameMismatch, FormatTooNew, ManifestInvalid, FileCorrupt or Unreadable.
    """
    path = version / MANIFEST
    try:
        content = read_bytes(path, _MOST_BYTES)
    except FileCorrupt as error:
        if path.exists():
            raise
        remedy = "give the folder of a saved version, such as STORE/NAME/1"
        raise NotAVersion(version, f"has no {MANIFEST}", remedy) from error
    manifest = from_json(content.decode(errors="replace"), path)
    recorded = version / MANIFEST_HASH
    if read_bytes(recorded, _MOST_BYTES) != manifest_hash(content).encode():
        raise FileCorrupt(path, f"does not have the hash in {MANIFEST_HASH}: it was changed after saving", _RESTORE)
    _check_folder(version, manifest)
    return manifest


def read_card(version: Path, manifest: Manifest) -> str:
    """The card of the version in folder `version`, in Markdown. Raises FileCorrupt or Unreadable."""
    return read_hashed(version / CARD, manifest.files[CARD], _MOST_CARD_BYTES)


def check_goldens(goldens: Sequence[Golden], tasks: Sequence[Task]) -> None:
    """Raises ValueError if an example does not fit its task, or names a task that is not among `tasks`."""
    by_name = {task.name: task for task in tasks}
    _check_task_names("goldens", [golden.task for golden in goldens], by_name)
    for number, golden in enumerate(goldens):
        task, where = by_name[golden.task], f"key 'goldens[{number}]' of task {golden.task!r}"
        if not _fits(task, golden.input):
            raise ValueError(f"{where}: its input is not one of a {task.kind} task")
        try:
            kind = answers.OptionalSpanAnswer if task.may_lack_answer else _ANSWERS[task.kind]
            decode(kind, golden.answer, defaults=True)
        except DecodingError as error:
            raise ValueError(f"{where}: its answer is not one of a {task.kind} task: {error}") from error


def tasks_without_golden(manifest: Manifest) -> list[str]:
    """The tasks whose answers are checked on no device, as they have no golden example."""
    checked = {golden.task for golden in manifest.goldens}
    return [task.name for task in manifest.tasks if task.name not in checked]


def manifest_hash(content: bytes) -> str:
    """The text of `manifest.sha256`, in the format of sha256sum."""
    return f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n"


def _upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """A manifest of an older format as one of this format: newer keys get the values that its format implied."""
    new: dict[str, Any] = {"format": FORMAT, "references": {}}
    if values["format"] == 1:
        new["parameters"] = None
    if isinstance(values.get("network"), dict):
        new["network"] = _defaults(NetworkConfig) | values["network"]
    if isinstance(values.get("tasks"), list):
        new["tasks"] = [
            _upgrade_task(task, values["format"]) if isinstance(task, dict) else task for task in values["tasks"]
        ]
    return values | new


def _upgrade_task(task: dict[str, Any], format_number: int) -> dict[str, Any]:
    implied = _defaults(Task)
    if format_number < 3 and task.get("kind") == Kind.SPAN:
        implied["max_answer_tokens"] = _MAX_ANSWER_TOKENS
    return implied | task


def _defaults(kind: type[NetworkConfig | Task]) -> dict[str, Any]:
    """The default values of a dataclass as they are in JSON."""
    values = {field.name: field.default for field in fields(kind) if field.default is not MISSING}
    return cast(dict[str, Any], json.loads(json.dumps(values)))


def _check(manifest: Manifest) -> None:
    if manifest.format != FORMAT:
        raise ValueError(f"key 'format': {manifest.format} was never in use")
    check_tasks(manifest.tasks, manifest.network.max_length)
    for task in manifest.tasks:
        if task.word_shapes and not manifest.network.word_shapes:
            raise ValueError(f"task {task.name!r} reads word_shapes, but key 'network.word_shapes' is false")
    task_names = {task.name for task in manifest.tasks}
    named = {"metrics": manifest.metrics, "baselines": manifest.baselines}
    for key, names in (named | {f"references.{name}": own for name, own in manifest.references.items()}).items():
        _check_task_names(key, list(names), task_names)
    check_goldens(manifest.goldens, manifest.tasks)
    for required in (WEIGHTS, TOKENIZER, CARD):
        if required not in manifest.files:
            raise ValueError(f"key 'files' lacks {required}")
    for file in manifest.files:
        if PurePosixPath(file).name != file or "\0" in file:
            raise ValueError(f"key 'files' names {file!r}, which is not a file of the version's folder")


def _fits(task: Task, item: Input) -> bool:
    """Whether an input has the parts that the task reads, and no others."""
    has_parts = (item.text_pair is not None, bool(item.candidates))
    in_text = all(0 <= start <= stop <= len(item.text) for start, stop in item.words or ())
    needed = (False, True) if task.kind in CANDIDATE_KINDS else (task.pair, False)
    return has_parts == needed and in_text and (item.words is None or task.kind is Kind.TAGGING)


def _check_folder(version: Path, manifest: Manifest) -> None:
    folder = version.absolute()
    found, named = f"{folder.parent.name}/{folder.name}", f"{manifest.name}/{manifest.version}"
    if found != named:
        raise NameMismatch(
            version,
            f"this folder is {found}, but its manifest says {named}",
            f"move it to {named} of a store; to give a version another name or number: polytask models copy",
        )


def _check_task_names(key: str, names: Sequence[str], task_names: Collection[str]) -> None:
    unknown = sorted(set(names).difference(task_names))
    if unknown:
        raise ValueError(f"key {key!r} names tasks that are not in 'tasks': {', '.join(unknown)}")


def _lists_as_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists_as_tuples(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_lists_as_tuples(entry) for entry in value)
    return value
