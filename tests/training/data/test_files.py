"""Data files: the same records in every format give the same examples, and broken files are named."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from polytask.model.tasks import Kind
from polytask.training.data import files
from polytask.training.data.files import fingerprint, read_rows
from polytask.training.data.issues import DataError, DataIssues
from polytask.training.data.records import read_records
from tests.training.support import toy

CLASSIFIED = toy.records(Kind.CLASSIFICATION, 3)


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    datasets.disable_progress_bars()


def _as_cell(value: object) -> object:
    return json.dumps(value) if isinstance(value, list) else value


def _write_table(path: Path, records: Sequence[toy.Record]) -> None:
    """Writes CSV with the csv library, and TSV by hand, because it has no quotes."""
    names = list(records[0])
    rows = [names, *([str(_as_cell(record[name])) for name in names] for record in records)]
    if path.name == "a.tsv":
        path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)


def _write_parquet(path: Path, records: Sequence[toy.Record]) -> None:
    parquet.write_table(pa.Table.from_pylist(list(records)), path)


def _write_saved(path: Path, records: Sequence[toy.Record]) -> None:
    datasets.DatasetDict(train=datasets.Dataset.from_list(list(records))).save_to_disk(path)


_WRITERS: dict[str, Callable[[Path, Sequence[toy.Record]], object]] = {
    "a.jsonl": toy.write_records,
    "a.csv": _write_table,
    "a.tsv": _write_table,
    "a.parquet": _write_parquet,
    "hf:a#train": _write_saved,
}


def _write(folder: Path, name: str, records: Sequence[toy.Record]) -> None:
    _WRITERS[name](folder / name.removeprefix("hf:").removesuffix("#train"), records)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("name", _WRITERS)
def test_every_format_holds_every_kind(tmp_path: Path, name: str, kind: Kind) -> None:
    """Records of all kinds are equal in all formats, with types and groups."""
    toy.write_records(tmp_path / "plain.jsonl", toy.records(kind, 6))
    _write(tmp_path, name, toy.records(kind, 6))
    expected, found = (read_records(tmp_path, file, kind) for file in ("plain.jsonl", name))
    # Tables have no numbers: a ranking's label is compared as text.
    assert [str(sourced.record) for sourced in found] == [
        str(sourced.record).replace("label=1", "label='1'").replace("label=0", "label='0'")
        if kind is Kind.RANKING and name in {"a.csv", "a.tsv"}
        else str(sourced.record)
        for sourced in expected
    ]
    assert [sourced.group for sourced in found] == [sourced.group for sourced in expected]
    assert len({sourced.location for sourced in found}) == len(found)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_tables_may_be_compressed(tmp_path: Path, name: str) -> None:
    """A table whose name ends in `.gz` gives the same records as the plain one."""
    _write(tmp_path, name, CLASSIFIED)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    plain, packed = (read_records(tmp_path, file, Kind.CLASSIFICATION) for file in (name, f"{name}.gz"))
    assert [one.record for one in packed] == [one.record for one in plain]


def _rows(folder: Path, name: str, *columns: str) -> list[tuple[str, dict[str, Any]]]:
    issues = DataIssues()
    rows = list(read_rows(folder, name, columns, issues))
    issues.raise_if_any()
    return rows


# CSV and TSV


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r")), min_size=2, max_size=2)))
def test_csv_reads_what_csv_wrote(tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]]) -> None:
    """Quotes, separators and line ends in CSV cells are kept, and an empty cell is a missing value."""
    folder = tmp_path_factory.mktemp("csv")
    with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["x", "y"], *cells])
    expected = [{name: cell for name, cell in zip("xy", row, strict=True) if cell} for row in cells]
    assert [row for _, row in _rows(folder, "a.csv")] == expected


def test_the_location_is_the_line_on_which_a_record_starts(tmp_path: Path) -> None:
    """Records over several lines and blank lines do not shift the locations of other records."""
    (tmp_path / "a.csv").write_bytes(b'text,label\r\n"one\r\ntwo",x\r\n\r\nthree,y\r\n"four\nfive\nsix",z\nseven,x')
    assert _rows(tmp_path, "a.csv") == [
        (f"{tmp_path}/a.csv:2", {"text": "one\r\ntwo", "label": "x"}),
        (f"{tmp_path}/a.csv:5", {"text": "three", "label": "y"}),
        (f"{tmp_path}/a.csv:6", {"text": "four\nfive\nsix", "label": "z"}),
        (f"{tmp_path}/a.csv:9", {"text": "seven", "label": "x"}),
    ]


def test_quotes_are_plain_characters_in_tsv(tmp_path: Path) -> None:
    """A quote in TSV that is never closed does not swallow the following lines."""
    (tmp_path / "a.tsv").write_text('text\tlabel\n"so it began\tx\na "b"\ty\n', encoding="utf-8")
    assert [row["text"] for _, row in _rows(tmp_path, "a.tsv")] == ['"so it began', 'a "b"']


def test_cells_that_pandas_has_quoted_in_tsv_are_read_as_they_were(tmp_path: Path) -> None:
    """TSV as pandas writes it, with quotes in texts and labels, is read with the same texts and labels."""
    rows = [["text", "label"], ['he said "fine" x', 'ask "billing"'], ["plain", 'a "b"']]
    with (tmp_path / "a.tsv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)  # as pandas' to_csv does
    assert [list(row.values()) for _, row in _rows(tmp_path, "a.tsv", "text")] == rows[1:]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_the_separator_of_csv_is_found_by_its_header(tmp_path: Path, separator: str, quoting: Any) -> None:
    """CSV may be separated by commas, semicolons, tabs or bars: by what makes the wanted columns of the header."""
    rows = [["text", "label"], ["good; really, a | film", "pos"], ["bad", "neg"]]
    with (tmp_path / "a.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=separator, quoting=quoting).writerows(rows)
    found = [list(row.values()) for _, row in _rows(tmp_path, "a.csv", "text", "label")]
    assert found == rows[1:]


def test_a_cell_may_be_as_long_as_a_document(tmp_path: Path) -> None:
    """A cell of CSV or TSV has no limit below that of memory."""
    text = "word " * 100_000 + "end"
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        (tmp_path / name).write_text(f"text{separator}label\n{text}{separator}x\n", encoding="utf-8")
        assert _rows(tmp_path, name, "text") == [(f"{tmp_path}/{name}:2", {"text": text, "label": "x"})]


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    """A byte order mark before the header, as spreadsheets write it, is not part of the first column's name."""
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext,label\na,x\n")
    assert _rows(tmp_path, "a.csv", "text") == [(f"{tmp_path}/a.csv:2", {"text": "a", "label": "x"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,label\na,x\nb\nc,x\n", r":3: 1 cells, but the header has 2\Z"),
        (b"text,label\na,x\nb,x,y\n", r":3: 3 cells, but the header has 2\Z"),
        (b'text,label\na,x\n"b,x\nc,x\n', r":3: not a valid table from here on: "),
        (b'text,label\n"a"b,x\n', r":2: not a valid table from here on: "),
        (b"text,label\na,x\n\xe9,x\n", r":3: not UTF-8: .*\Z"),
        (b"label,text,label\nx,a,x\n", r": the column 'label' is there twice\Z"),
        (b"sentence,label\na,x\n", r": has no column 'text', but 'sentence', 'label'; the recipe's `columns` "),
        (b"text ;label\na;x\n", r": has no column 'text', but 'text ;label'; "),
        (b"Text,label\na,x\n", r": has no column 'text', but .*; did you mean 'Text'\?\Z"),
    ],
)
def test_a_broken_table_is_named_by_line(tmp_path: Path, content: bytes, message: str) -> None:
    """Rows of a wrong width, open quotes, wrong encodings and missing columns are reported with their line."""
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"\A{tmp_path}/a.csv{message}"):
        _rows(tmp_path, "a.csv", "text")


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        (Kind.REGRESSION, "a,b", "label: .*valid number"),
        (Kind.REGRESSION, "a,nan", "label: .*finite"),
        (Kind.MULTIPLE_CHOICE, 'a,"[""b"", ""c""]",1.5', "label: .*valid integer"),
        (Kind.MULTIPLE_CHOICE, "a,b,1", "choices: .*valid list"),
        (Kind.CLASSIFICATION, "a,", "label: Field required"),
    ],
)
def test_a_cell_that_is_no_value_is_named(tmp_path: Path, kind: Kind, line: str, message: str) -> None:
    """A cell of a table that is not a valid number or list is reported with its line."""
    header = "text,choices,label" if kind is Kind.MULTIPLE_CHOICE else "text,label"
    (tmp_path / "a.csv").write_text(f"{header}\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"\A{tmp_path}/a.csv:2: {message}"):
        read_records(tmp_path, "a.csv", kind)


# Parquet and Hugging Face datasets


@pytest.mark.parametrize("name", ["a.parquet", "hf:a#train"])
def test_rows_are_counted_and_missing_values_are_not_there(tmp_path: Path, name: str) -> None:
    """In formats without lines the location is the row, from 1, and a null is a missing value."""
    _write(tmp_path, name, [{"text": "a", "text_pair": None}, {"text": "b", "text_pair": "c"}])
    index = name if name.startswith("hf:") else f"{tmp_path}/{name}"
    assert _rows(tmp_path, name) == [(f"{index}:1", {"text": "a"}), (f"{index}:2", {"text": "b", "text_pair": "c"})]
    with pytest.raises(DataError, match="has no column 'sentence'"):
        _rows(tmp_path, name, "sentence")


def test_class_labels_become_their_names(tmp_path: Path) -> None:
    """Numbers of a `ClassLabel`, also in lists, become names, and -1 becomes a missing value."""
    label = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label, "tags": datasets.List(label)})
    columns = {"text": ["a", "b", "c"], "label": [1, 0, -1], "tags": [[0, 1], [], [1]]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "own")
    assert [row for _, row in _rows(tmp_path, "hf:own")] == [
        {"text": "a", "label": "yes", "tags": ["no", "yes"]},
        {"text": "b", "label": "no", "tags": []},
        {"text": "c", "tags": ["yes"]},
    ]


@pytest.mark.parametrize("old", [False, True])
def test_class_labels_in_parquet_become_their_names(tmp_path: Path, old: bool) -> None:
    """Parquet files that `datasets` wrote, in its present and in its old form of lists, have names in place of numbers."""
    label, names = datasets.ClassLabel(names=["neg", "pos"]), ["O", "B-PER"]
    features = datasets.Features(
        {"tags": datasets.List(datasets.ClassLabel(names=names)), "label": label, "n": datasets.Value("int64")}
    )
    rows = {"tags": [[0, 1], None], "label": [1, -1], "n": [0, 1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    if old:
        table = parquet.read_table(tmp_path / "a.parquet")
        info = {"features": {**features.to_dict(), "tags": [{"names": names, "_type": "ClassLabel"}]}}
        metadata = {"huggingface": json.dumps({"info": info})}
        parquet.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    found = [row for _, row in _rows(tmp_path, "a.parquet")]
    assert found == [{"tags": ["O", "B-PER"], "label": "pos", "n": 0}, {"n": 1}]


def test_a_label_number_without_a_name_is_named_by_row(tmp_path: Path) -> None:
    """A number beyond the names that a Parquet file has for it is an error of its row."""
    info = {"info": {"features": {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}}}
    table = pa.table({"label": [0, 2]}).replace_schema_metadata({"huggingface": json.dumps(info)})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet:2: a label's number is beyond"):
        _rows(tmp_path, "a.parquet")


def test_a_split_must_be_there(tmp_path: Path) -> None:
    """If no split is named or the named one is missing, the error lists the existing splits."""
    _write(tmp_path, "hf:a#train", CLASSIFIED)
    for name in ("hf:a", "hf:a#test"):
        with pytest.raises(DataError, match=rf"\A{name}: has the splits train; "):
            _rows(tmp_path, name)


def test_the_hub_is_asked_for_what_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name, configuration and split are passed to the hub, and its errors become DataError."""
    asked = []

    def load(*where: str | None, split: str | None) -> object:
        asked.append((*where, split))
        if len(asked) > 2:
            raise ConnectionError("no network")
        return datasets.Dataset.from_list(CLASSIFIED)

    monkeypatch.setattr(datasets, "load_dataset", load)
    for name in ("hf:org/set:part#train", "hf:set#test"):
        assert [row for _, row in _rows(tmp_path, name)] == CLASSIFIED
    assert asked == [("org/set", "part", "train"), ("set", None, "test")]
    with pytest.raises(DataError, match=r"\Ahf:set#test: cannot be read: no network\Z"):
        _rows(tmp_path, "hf:set#test")


@pytest.mark.parametrize(("name", "library"), [("a.parquet", "pyarrow"), ("hf:a#train", "datasets")])
def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str) -> None:
    """Without an optional library the error gives the command that installs it."""
    _write(tmp_path, name, CLASSIFIED)
    for module in ("datasets", "pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf"{name}: needs the library {library}: pip install 'polytask\[datasets\]'\Z"):
        _rows(tmp_path, name)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file, one in another format than its ending, and an unknown ending are data errors."""
    (tmp_path / "text.parquet").write_text("no parquet", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    for name in ("none.csv", "none.tsv.gz", "none.parquet", "text.parquet", "hf:folder#train"):
        with pytest.raises(DataError, match=rf"{name}: cannot be read: "):
            _rows(tmp_path, name)
    for name in ("a.txt", "a.json", "a", "a.gz", "a.xlsx"):
        with pytest.raises(DataError, match=rf"{name}: no known format; there are \.jsonl, \.csv"):
            _rows(tmp_path, name)


# Fingerprints


@pytest.mark.parametrize("name", _WRITERS)
def test_other_data_have_another_fingerprint(tmp_path: Path, name: str) -> None:
    """The fingerprint does not depend on the folder, and a changed record changes it."""
    changed = [*CLASSIFIED[:-1], CLASSIFIED[-1] | {"label": "new"}]
    found = []
    for index, records in enumerate((CLASSIFIED, CLASSIFIED, changed)):
        (tmp_path / str(index)).mkdir()
        _write(tmp_path / str(index), name, records)
        found.append(fingerprint(tmp_path / str(index), name))
    assert found[0] == found[1] != found[2]
    assert len(found[0]) == 64


def test_a_data_set_of_the_hub_is_no_table_of_strings() -> None:
    """Values of a hub data set have types, even if its name ends like a table's."""
    assert [files.is_text_table(name) for name in ("a.csv", "a.tsv.gz", "a.parquet", "a.jsonl", "hf:a.csv")] == [
        True,
        True,
        False,
        False,
        False,
    ]
