"""Exports of a version: its network as files for other engines, what each way of running it is worth, and the default.

They lie in `exports/` of the version. Where that cannot be written to, for example in an installed package, they lie in
the user's own data folder, under the hash of the version's manifest. Neither changes the version.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from polytask.model_store.decoding import DecodingError, decode
from polytask.model_store.durable_files import flush, locked, replace_text, sha256_of, writing
from polytask.model_store.errors import ExportInvalid, FileCorrupt
from polytask.model_store.manifest import MANIFEST, Golden

EXPORTS = "exports"
EXPORT_MANIFEST = "exports.json"
FORMAT = 1

_EXPORT_AGAIN = "run `polytask export` again"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a version: engine, precision, and the file that it runs (None: the version's own weights).

    `library`: name and version of the engine. `texts_per_s`: by how many rows a batch had. `differences`: by task, what
    its main metric on validation differs from that of torch in float32, in hundredths; empty where there were no data.
    `refused`: why it must not serve. `goldens`: the version's golden examples as this candidate answers them; empty
    where it must give the version's own answers.
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
        """What tells it from the others, such as `onnxruntime-int8`."""
        return f"{self.backend}-{self.precision}"


@dataclass(frozen=True, slots=True)
class Exports:
    """What `exports.json` holds.

    `version`: NAME/VERSION, and `version_sha256` the hash of its manifest. `files`: the sha256 of each file.
    `candidates`: the fastest first, those that are refused last. `cpu`, `threads`: what the speeds were measured on.
    `calibration`: how many rows the 8-bit scales were chosen on. `created`: the time.
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
    """Where exports of the version in this folder are written."""
    inside, user_folder = export_folders(version)
    return inside if os.access(inside if inside.is_dir() else version, os.W_OK) else user_folder


def export_folders(version: Path) -> tuple[Path, Path]:
    """Where exports of the version may lie: inside it, or in the user's own data folder."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return version / EXPORTS, Path(data) / "polytask" / EXPORTS / sha256_of(version / MANIFEST)


def save_exports(version: Path, exports: Exports, files: Mapping[str, Path]) -> Path:
    """Puts the exports in the place of earlier ones and gives their folder. `files`: where each file of `exports` is now.

    Whoever reads them meanwhile gets the old or the new ones. Raises StoreUnwritable.
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


def read_exports(version: Path) -> tuple[Path, Exports] | None:
    """The folder of the version's exports and what they are; None where there are none.

    Raises ExportInvalid for exports that cannot be read, or are of another version.
    """
    folder = next((folder for folder in export_folders(version) if (folder / EXPORT_MANIFEST).is_file()), None)
    if folder is None:
        return None
    path = folder / EXPORT_MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.get("format") != FORMAT:
            raise ExportInvalid(
                path, f"has format {values.get('format')}, this release reads format {FORMAT}", _EXPORT_AGAIN
            )
        exports = decode(Exports, values)
    except (ValueError, DecodingError) as error:
        raise ExportInvalid(path, f"cannot be read: {error}", _EXPORT_AGAIN) from error
    if exports.version_sha256 != sha256_of(version / MANIFEST):
        raise ExportInvalid(path, f"was made from another version than {version}", _EXPORT_AGAIN)
    return folder, exports


def exported_file(folder: Path, exports: Exports, name: str) -> Path:
    """The path of a file of the exports in `folder`. Raises FileCorrupt where it is missing or not the one exported."""
    path = folder / name
    if not path.is_file():
        raise FileCorrupt(path, "is missing", _EXPORT_AGAIN)
    actual = sha256_of(path)
    if actual != exports.files.get(name):
        raise FileCorrupt(path, f"has sha256 {actual}, {EXPORT_MANIFEST} says {exports.files.get(name)}", _EXPORT_AGAIN)
    return path


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, temporary)
    temporary.chmod(0o444)
    flush(temporary)
    temporary.rename(target)
