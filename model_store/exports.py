"""Exports of a version: its network as files for other backends, with measured speed and quality of each.

They are in `exports/` of the version. If that cannot be written to, as in an installed package, they are in the user's
data folder, under the hash of the version's manifest. Neither changes the version.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from polytask.model.tasks import Task
from polytask.model_store.decoding import DecodingError, decode, parse
from polytask.model_store.durable_files import flush, locked, replace_text, sha256_of, writing
from polytask.model_store.errors import ExportInvalid, FileCorrupt
from polytask.model_store.manifest import MANIFEST, Golden, check_goldens
from polytask.model_store.reading import MIB, check_hash, read_bytes, reading

EXPORTS = "exports"
EXPORT_MANIFEST = "exports.json"
FORMAT = 1

_MOST_BYTES = 64 * MIB

EXPORT_AGAIN = "run `polytask export` again"
"""What to do about an export that cannot be used."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a version: backend, precision and exported file (None: the version's own weights).

    `library`: name and version of the inference library. `texts_per_s`: throughput by number of rows in a batch.
    `differences`: by task, difference of the main validation metric from torch in float32, in hundredths; empty without
    data. `refused`: reason why it must not serve, or None. `goldens`: the golden examples with this candidate's
    answers; empty if it must give the version's own answers.
    """

    backend: str
    precision: str
    file: str | None
    library: str
    texts_per_s: dict[str, float]
    differences: dict[str, float]
    refused: str | None
    goldens: tuple[Golden, ...]

    @property
    def name(self) -> str:
        """Unique name among the candidates, such as `onnxruntime-int8`."""
        return f"{self.backend}-{self.precision}"


@dataclass(frozen=True, slots=True)
class Exports:
    """Content of `exports.json`.

    `version`: NAME/VERSION. `version_sha256`: hash of its manifest. `files`: sha256 of each file. `candidates`: fastest
    first, refused ones last. `cpu`, `threads`: the processor and number of threads of the measurement. `calibration`:
    number of rows on which the 8-bit scales were chosen. `created`: the time.
    """

    version: str
    version_sha256: str
    files: dict[str, str]
    candidates: tuple[Candidate, ...]
    cpu: str
    threads: int
    calibration: int
    created: str
    format: int = FORMAT


def export_folder(version: Path) -> Path:
    """The folder to which exports of the version in folder `version` are written."""
    inside, *elsewhere = export_folders(version)
    return inside if not elsewhere or os.access(inside if inside.is_dir() else version, os.W_OK) else elsewhere[0]


def export_folders(version: Path) -> tuple[Path, ...]:
    """The folders that may hold exports of the version: inside it, and in the user's data folder.

    A user whom the system does not know has no such folder, and one may not be allowed to look into it.
    """
    inside = version / EXPORTS
    try:
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        user_folder = Path(data) / "polytask" / EXPORTS / sha256_of(version / MANIFEST)
        user_folder.is_dir()
    except (RuntimeError, PermissionError):
        return (inside,)
    return inside, user_folder


def save_exports(version: Path, exports: Exports, files: Mapping[str, Path]) -> Path:
    """Replaces earlier exports and returns their folder. `files`: the present path of each file of `exports`.

    A concurrent reader gets the old or the new exports. Raises StoreUnwritable.
    """
    folder = export_folder(version)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            for name, path in files.items():
                assert sha256_of(path) == exports.files[name], name
                if not (folder / name).is_file() or sha256_of(folder / name) != exports.files[name]:
                    _copy(path, folder / name)
            replace_text(folder / EXPORT_MANIFEST, json.dumps(asdict(exports), indent=2, ensure_ascii=False) + "\n")
            for path in folder.iterdir():
                if path.name not in {*exports.files, EXPORT_MANIFEST}:
                    path.unlink()
    return folder


def read_exports(version: Path, tasks: Sequence[Task]) -> tuple[Path, Exports] | None:
    """The folder and the description of the exports of a version with these tasks; None if there are none.

    Raises ExportInvalid for exports that do not fit the version, FileCorrupt or Unreadable.
    """
    with reading(version / EXPORTS):
        folder = next((folder for folder in export_folders(version) if (folder / EXPORT_MANIFEST).exists()), None)
    if folder is None:
        return None
    path = folder / EXPORT_MANIFEST
    content = read_bytes(path, _MOST_BYTES)
    try:
        values = parse(content.decode("utf-8"))
        if isinstance(values, dict) and values.get("format") != FORMAT:
            raise ExportInvalid(
                path, f"has format {values.get('format')}, this release reads format {FORMAT}", EXPORT_AGAIN
            )
        exports = decode(Exports, values)
        for candidate in exports.candidates:
            check_goldens(candidate.goldens, tasks)
    except (ValueError, DecodingError) as error:
        raise ExportInvalid(path, f"cannot be read: {error}", EXPORT_AGAIN) from error
    if exports.version_sha256 != sha256_of(version / MANIFEST):
        raise ExportInvalid(path, f"was made from another version than {version}", EXPORT_AGAIN)
    return folder, exports


def exported_file(folder: Path, exports: Exports, name: str) -> Path:
    """The path of a file of the exports in `folder`. Raises FileCorrupt if it is missing or has another hash."""
    path, expected = folder / name, exports.files.get(name)
    if expected is None or Path(name).name != name:
        raise ExportInvalid(folder / EXPORT_MANIFEST, f"does not list the file {name!r} of this folder", EXPORT_AGAIN)
    try:
        check_hash(path, expected)
    except FileCorrupt as error:
        raise FileCorrupt(path, error.problem, EXPORT_AGAIN) from error
    return path


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, temporary)
    temporary.chmod(0o444)
    flush(temporary)
    temporary.rename(target)
