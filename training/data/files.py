"""Data files: raw records from JSON lines, CSV, TSV, Parquet and Hugging Face data sets.

Files are named relative to the data folder. The ending names the format: `.jsonl`, `.csv`, `.tsv` (each also with
`.gz`) or `.parquet`. `hf:NAME[:CONFIG]#SPLIT` is a data set of the Hugging Face hub, or, if NAME is a folder, one
that `datasets` has saved there (`#SPLIT` only if it has splits).
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from polytask.model_store.durable_files import sha256_of
from polytask.training.data.issues import DataError, DataIssues
from polytask.training.recipes.validation_errors import did_you_mean

_HUGGING_FACE = "hf:"
_GZIP = ".gz"
_TEXT_TABLES = {".csv": ",;\t|", ".tsv": "\t"}
"""The separators that a format may have, the usual one first."""

# Documents are longer than the 128 KiB of a cell that Python's reader takes by default.
csv.field_size_limit(2**31 - 1)

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]
"""The raw records of a file, each with its location: `file:line`, or `file:row` in formats without lines."""


def read_rows(folder: Path, name: str, columns: Iterable[str], issues: DataIssues) -> Rows:
    """The raw records of a file, in order. Lines that are no records are added to `issues`.

    Raises DataError for a file that cannot be read in the format of its name, or a table without one of the `columns`.
    JSON lines have no columns: their fields are not checked.
    """
    if name.startswith(_HUGGING_FACE):
        return _hugging_face_rows(folder, name, columns)
    path = folder / name
    ending = _ending(name)
    if ending == ".jsonl":
        return _json_rows(path, issues)
    if ending in _TEXT_TABLES:
        return _table_rows(path, _TEXT_TABLES[ending], columns, issues)
    if ending == ".parquet":
        return _parquet_rows(path, columns)
    formats = ".jsonl, .csv, .tsv (each also .gz), .parquet, or hf:NAME[:CONFIG]#SPLIT"
    raise DataError(f"{path}: no known format; there are {formats}")


def is_text_table(name: str) -> bool:
    """Whether all values of the file are strings, as in CSV and TSV; in the other formats values have types."""
    return _ending(name) in _TEXT_TABLES and not name.startswith(_HUGGING_FACE)


def has_columns(name: str) -> bool:
    """Whether all rows of the file have the same columns, in contrast to JSON lines."""
    return name.startswith(_HUGGING_FACE) or _ending(name) != ".jsonl"


def fingerprint(folder: Path, name: str) -> str:
    """The sha256 of the file, or of the rows of a Hugging Face data set, so that it does not depend on a cache."""
    if not name.startswith(_HUGGING_FACE):
        return sha256_of(folder / name)
    digest = hashlib.sha256()
    for _, row in _hugging_face_rows(folder, name, ()):
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _ending(name: str) -> str:
    return Path(name.removesuffix(_GZIP)).suffix


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every line with its number, without a byte order mark."""
    try:
        with gzip.open(path) if path.suffix == _GZIP else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _json_rows(path: Path, issues: DataIssues) -> Rows:
    for number, line in _lines(path):
        location = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            issues.add(location, f"not UTF-8: {error}", category="not UTF-8")
        except (ValueError, RecursionError) as error:
            issues.add(location, f"not valid JSON: {error}", category="not valid JSON")
        else:
            if isinstance(row, dict):
                yield location, row
            else:
                issues.add(location, "not a JSON object", category="not a JSON object")


def _table_rows(path: Path, separators: str, columns: Iterable[str], issues: DataIssues) -> Rows:
    """The rows below the header. An empty cell is a missing value.

    CSV has quotes, and the first of the separators with which the header has the `columns`, as Excel writes semicolons in
    half of Europe. TSV has no quotes, but cells that pandas has quoted are read as they were.
    """
    columns, is_plain = set(columns), separators == "\t"
    separator = next((each for each in separators if columns <= set(_header(path, each))), separators[0])
    quotes: Any = csv.QUOTE_NONE if is_plain else csv.QUOTE_MINIMAL
    reader = csv.reader(_decoded(path), delimiter=separator, quoting=quotes, strict=True)
    header: list[str] = []
    start = 1
    try:
        for cells in reader:
            location, start = f"{path}:{start}", reader.line_num + 1
            if not cells:
                continue
            try:
                separator.join(cells).encode(errors="surrogateescape").decode()
            except UnicodeDecodeError as error:
                issues.add(location, f"not UTF-8: {error}", category="not UTF-8")
                if not header:
                    raise DataError(issues) from error
                continue
            if not header:
                header = cells
                _check_header(path, header, columns)
            elif len(cells) == len(header):
                values = map(_unquoted, cells) if is_plain else cells
                yield location, {name: value for name, value in zip(header, values, strict=True) if value}
            else:
                message = f"{len(cells)} cells, but the header has {len(header)}"
                issues.add(location, message, category="another number of cells than the header")
    except csv.Error as error:
        # No row after this one can be read, so it is not a single bad row.
        issues.add(f"{path}:{start}", f"not a valid table from here on: {error}")
        raise DataError(issues) from error


def _header(path: Path, separator: str) -> list[str]:
    """The first line that is not empty, split at the separator."""
    first = next((line for line in _decoded(path) if line.strip()), "")
    return next(csv.reader([first], delimiter=separator), [])


def _unquoted(cell: str) -> str:
    """A cell of a TSV file, without quotes if it has been quoted because of quotes in it, all of which are doubled."""
    inner = cell[1:-1]
    is_quoted = len(cell) > 3 and cell[0] == cell[-1] == '"' and '"' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_quoted else cell


def _decoded(path: Path) -> Iterator[str]:
    """Every line as text, in which bytes that are not UTF-8 are surrogates."""
    return (line.decode("utf-8", errors="surrogateescape") for _, line in _lines(path))


def _check_header(source: object, header: Sequence[str], columns: Iterable[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{source}: the column {twice[0]!r} is there twice")
    missing = [name for name in columns if name not in header]
    if missing:
        others = ", ".join(map(repr, header))
        raise DataError(
            f"{source}: has no column {missing[0]!r}, but {others}; the recipe's `columns` names the column of a "
            f"field{did_you_mean(missing[0], header)}"
        )


def _parquet_rows(path: Path, columns: Iterable[str]) -> Rows:
    """The rows, with the names of `ClassLabel` values, which `datasets` stores in the file's metadata."""
    parquet = _library("pyarrow.parquet", path)
    arrow = _library("pyarrow", path)
    try:
        with parquet.ParquetFile(path) as file:
            _check_header(path, file.schema_arrow.names, columns)
            features = _stored_features(file.schema_arrow.metadata or {})
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from _decoded_rows(str(path), rows, features)
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _stored_features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The features that `datasets` has written into the metadata of a Parquet file, by column; none if it has not."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _hugging_face_rows(folder: Path, name: str, columns: Iterable[str]) -> Rows:
    """The rows of one split, with the names of `ClassLabel` values instead of their numbers."""
    datasets = _library("datasets", name)
    source, _, split = name.removeprefix(_HUGGING_FACE).partition("#")
    try:
        if (folder / source).is_dir():
            dataset = datasets.load_from_disk(str(folder / source))
        else:
            hub_name, _, config = source.partition(":")
            dataset = datasets.load_dataset(hub_name, config or None, split=split or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{name}: cannot be read: {error}") from error
    if isinstance(dataset, dict) and split not in dataset:
        raise DataError(f"{name}: has the splits {', '.join(dataset)}; name one as #SPLIT")
    table = dataset[split] if isinstance(dataset, dict) else dataset
    _check_header(name, table.column_names, columns)
    yield from _decoded_rows(name, table, table.features.to_dict())


def _decoded_rows(source: str, rows: Iterable[Row], features: Mapping[str, Any]) -> Rows:
    """The rows without missing values, with names for the numbers of labels. `features`: as `datasets` stores them."""
    decoders = {column: _label_decoder(feature) for column, feature in features.items()}
    for number, row in enumerate(rows, start=1):
        location = f"{source}:{number}"
        try:
            decoded = {name: decoders[name](value) if name in decoders else value for name, value in row.items()}
        except IndexError as error:
            raise DataError(f"{location}: a label's number is beyond the names that the file has for it") from error
        yield location, _without_missing(decoded)


def _label_decoder(feature: Any) -> Callable[[Any], Any]:
    """A function that replaces label numbers in the feature's values by names, and a missing label, -1, by None."""
    item = feature.get("feature") if isinstance(feature, dict) and "_type" in feature else None
    if isinstance(feature, list) and len(feature) == 1:  # how older releases of `datasets` store a list
        item = feature[0]
    if item is not None:
        decode_item = _label_decoder(item)
        return lambda values: [decode_item(value) for value in values] if isinstance(values, list) else values
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
        names = feature.get("names") or ()
        if names:
            return lambda value: names[value] if isinstance(value, int) and value >= 0 else None
    return lambda value: value


def _without_missing(row: Row) -> Row:
    return {name: value for name, value in row.items() if value is not None}


def _library(module: str, needed_by: object) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise DataError(f"{needed_by}: needs the library {library}: pip install 'polytask[datasets]'") from error
