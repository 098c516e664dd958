"""Records: every kind is read from JSON lines as written, and invalid ones are named by file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from polytask.model.tasks import Kind
from polytask.training.data.issues import DataError, DataIssues
from polytask.training.data.records import SourcedRecord, read_records
from polytask.training.record_schemas import field_names
from tests.training.support import toy

GOOD = {kind: toy.records(kind, 1)[0] for kind in Kind}


def _read(path: Path, kind: Kind, **options: Any) -> list[SourcedRecord]:
    return read_records(path.parent, path.name, kind, **options)


def _dumped(path: Path, kind: Kind) -> list[dict[str, Any]]:
    return [sourced.record.model_dump() for sourced in _read(path, kind)]


@pytest.mark.parametrize("kind", Kind)
def test_records_arrive_as_they_are_written(tmp_path: Path, kind: Kind) -> None:
    """All fields of all records of every kind are read in order, with file and line as location."""
    lines = toy.records(kind, 5)
    path = toy.write_records(tmp_path / "a.jsonl", lines)
    found = _read(path, kind)
    fields = field_names(kind)
    assert [sourced.record.model_dump(include=set(lines[0])) for sourced in found] == [
        {field: value for field, value in line.items() if field in fields} for line in lines
    ]
    assert [sourced.group for sourced in found] == [line.get("group") for line in lines]
    assert [sourced.location for sourced in found] == [f"{path}:{number}" for number in range(1, len(lines) + 1)]


@pytest.mark.parametrize("kind", Kind)
def test_compressed_files_read_like_plain_ones(tmp_path: Path, kind: Kind) -> None:
    """`.jsonl.gz` gives the records of `.jsonl`."""
    plain = toy.write_records(tmp_path / "a.jsonl", toy.records(kind, 5))
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert _dumped(packed, kind) == _dumped(plain, kind)


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        (Kind.CLASSIFICATION, {"text": "a", "text_pair": "b", "label": "c"}),
        (Kind.MULTILABEL, {"text": "a", "text_pair": "b", "labels": []}),
        (Kind.REGRESSION, {"text": "a", "label": 3}),
        (Kind.RANKING, {"text": "a", "text_pair": "b", "label": "entailment"}),
        (Kind.MULTIPLE_CHOICE, {"text": "a", "choices": ["b", "c"], "label": 1}),
        (
            Kind.SPAN,
            {"text": "a", "text_pair": "b c", "answers": [{"text": "b", "start": 0}, {"text": "c", "start": 2}]},
        ),
        (Kind.SPAN, {"text": "a", "text_pair": "b", "answers": []}),
    ],
)
def test_variants_of_a_format_are_read(tmp_path: Path, kind: Kind, record: toy.Record) -> None:
    """Pairs, whole numbers as values, no labels, no question, and several answers or none are valid."""
    (found,) = _dumped(toy.write_records(tmp_path / "a.jsonl", [record]), kind)
    assert {name: found[name] for name in record} == record


def test_other_fields_may_be_there(tmp_path: Path) -> None:
    """Unknown fields are ignored."""
    for kind in Kind:
        path = toy.write_records(tmp_path / "a.jsonl", [{**GOOD[kind], "origin": "book"}])
        (found,) = _dumped(path, kind)
        assert set(found) == field_names(kind)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    ("given", "group"), [("q1", "q1"), (7, 7), (7.0, 7), (None, None), (["q1"], None), (1.5, None)]
)
def test_a_record_belongs_to_the_group_that_the_recipe_names(
    tmp_path: Path, kind: Kind, given: object, group: str | int | None
) -> None:
    """Any field may be the group; only texts and numbers are groups."""
    path = toy.write_records(tmp_path / "a.jsonl", [{**GOOD[kind], "origin": given}])
    assert [sourced.group for sourced in _read(path, kind, group_by="origin")] == [group]
    if "text" in GOOD[kind]:
        assert [sourced.group for sourced in _read(path, kind, group_by="text")] == [GOOD[kind]["text"]]


def test_labels_may_be_numbers_or_truth_values(tmp_path: Path) -> None:
    """A label that is an integer, true or false is named by its JSON text."""
    labels = [0, 12, -1, True, False]
    lines = [{"text": "a", "label": label} for label in labels]
    found = _dumped(toy.write_records(tmp_path / "a.jsonl", lines), Kind.CLASSIFICATION)
    assert [record["label"] for record in found] == ["0", "12", "-1", "true", "false"]
    (several,) = _dumped(toy.write_records(tmp_path / "b.jsonl", [{"text": "a", "labels": labels}]), Kind.MULTILABEL)
    assert several["labels"] == ["0", "12", "-1", "true", "false"]


def test_answers_may_be_two_lists(tmp_path: Path) -> None:
    """Answers as a list of texts and one of starts, as in SQuAD on the hub, equal answers as one list."""
    lists = {"text": ["b", "c"], "answer_start": [0, 2]}
    (found,) = _dumped(
        toy.write_records(tmp_path / "a.jsonl", [{"text": "a", "text_pair": "b c", "answers": lists}]), Kind.SPAN
    )
    assert found["answers"] == [{"text": "b", "start": 0}, {"text": "c", "start": 2}]
    none: dict[str, list[object]] = {"text": [], "answer_start": []}
    (found,) = _dumped(
        toy.write_records(tmp_path / "a.jsonl", [{"text": "a", "text_pair": "b c", "answers": none}]), Kind.SPAN
    )
    assert found["answers"] == []


# Columns


@pytest.mark.parametrize("kind", Kind)
def test_columns_map_the_files_names_to_fields(tmp_path: Path, kind: Kind) -> None:
    """Columns of other names can be mapped to fields, whatever else the file holds under the fields' names."""
    plain = toy.records(kind, 3)
    columns = {field: f"the {field}" for field in plain[0]}
    renamed = [{columns[field]: value for field, value in line.items()} | {"text": 9} for line in plain]
    path = toy.write_records(tmp_path / "a.jsonl", renamed)
    found = _read(path, kind, columns=columns)
    toy.write_records(tmp_path / "plain.jsonl", plain)
    expected = _read(tmp_path / "plain.jsonl", kind)
    assert [(sourced.record, sourced.group) for sourced in found] == [(one.record, one.group) for one in expected]


def test_columns_may_swap_names(tmp_path: Path) -> None:
    """Two fields can have each other's names in the file."""
    path = toy.write_records(tmp_path / "a.jsonl", [{"text": "b", "text_pair": "a", "label": "x"}])
    (found,) = _read(path, Kind.CLASSIFICATION, columns={"text": "text_pair", "text_pair": "text"})
    assert (found.record.text, found.record.text_pair) == ("a", "b")


def test_an_issue_names_the_column(tmp_path: Path) -> None:
    """If a field has another name in the file, the error gives both."""
    path = toy.write_records(tmp_path / "a.jsonl", [{"sentence": " ", "label": "x"}])
    with pytest.raises(DataError, match=r"a.jsonl:1: text \(column 'sentence'\): .*must not be blank"):
        _read(path, Kind.CLASSIFICATION, columns={"text": "sentence"})


def test_blank_lines_count_but_hold_no_record(tmp_path: Path) -> None:
    """Blank lines are skipped, but count as lines."""
    path = tmp_path / "a.jsonl"
    line = json.dumps(GOOD[Kind.CLASSIFICATION])
    path.write_text(f"{line}\n\n  \n{line}")
    assert [sourced.location for sourced in _read(path, Kind.CLASSIFICATION)] == [f"{path}:1", f"{path}:4"]


BROKEN = [
    (Kind.CLASSIFICATION, {"label": "good"}, "text: Field required"),
    (Kind.CLASSIFICATION, {"text": "", "label": "good"}, "text: .*at least 1 character"),
    (Kind.CLASSIFICATION, {"text": 3, "label": "good"}, "text: .*valid string"),
    (Kind.CLASSIFICATION, {"text": "a", "text_pair": "", "label": "good"}, "text_pair: "),
    (Kind.CLASSIFICATION, {"text": "a"}, "label: Field required"),
    (Kind.CLASSIFICATION, {"text": "a", "label": 1.5}, "label: .*valid string"),
    (Kind.CLASSIFICATION, {"text": "a", "label": ""}, "label: "),
    (Kind.CLASSIFICATION, {"text": "a \ud800", "label": "good"}, "text: "),
    (Kind.MULTILABEL, {"text": "a", "labels": "cats"}, "labels: .*valid list"),
    (Kind.MULTILABEL, {"text": "a", "labels": ["cats", 2.5]}, r"labels\.1: "),
    (Kind.REGRESSION, {"text": "a", "label": "3.5"}, "label: .*valid number"),
    (Kind.REGRESSION, {"text": "a", "label": None}, "label: "),
    (Kind.REGRESSION, {"text": "a", "label": True}, "label: "),
    (Kind.REGRESSION, {"text": "a", "label": float("nan")}, "label: .*finite"),
    (Kind.REGRESSION, {"text": "a", "label": float("inf")}, "label: .*finite"),
    (Kind.REGRESSION, {"text": "a", "label": float("-inf")}, "label: .*finite"),
    (Kind.REGRESSION, {"text": "a", "label": 10**400}, "label: "),
    (Kind.RANKING, {"group": "q", "text": "a", "label": 1}, "text_pair: Field required"),
    (Kind.RANKING, {"group": "q", "text": "a", "text_pair": "b", "label": 0.5}, "label"),
    (Kind.MULTIPLE_CHOICE, {"text": "a", "choices": ["b"], "label": 0}, "choices: .*at least 2"),
    (Kind.MULTIPLE_CHOICE, {"text": "a", "choices": ["b", ""], "label": 0}, r"choices\.1: "),
    (Kind.MULTIPLE_CHOICE, {"text": "a", "choices": ["b", "c"], "label": -1}, "label: "),
    (Kind.MULTIPLE_CHOICE, {"text": "a", "choices": ["b", "c"], "label": 2}, "label 2 is not one of the 2 choices"),
    (Kind.CLASSIFICATION, {"text": " \t\u3000", "label": "b"}, "text: .*must not be blank"),
    (Kind.MULTIPLE_CHOICE, {"text": "a", "choices": ["b", "  "], "label": 0}, r"choices\.1: .*must not be blank"),
    (Kind.TAGGING, {"tokens": [], "tags": []}, "tokens: .*at least 1"),
    (Kind.TAGGING, {"tokens": ["a", ""], "tags": ["O", "O"]}, r"tokens\.1: "),
    (Kind.TAGGING, {"tokens": ["a", "b"], "tags": ["O"]}, "2 tokens but 1 tags"),
    (Kind.SPAN, {"text": "a", "text_pair": "b", "answers": [{"text": "b", "start": -1}]}, r"answers\.0\.start: "),
    (Kind.SPAN, {"text": "a", "text_pair": "b c", "answers": [{"text": "c", "start": 1}]}, "answer 'c' is not at 1"),
    (Kind.SPAN, {"text": "a", "text_pair": "b c", "answers": [{"text": "c d", "start": 2}]}, "the context has 'c'"),
]


@pytest.mark.parametrize(("kind", "record", "message"), BROKEN)
def test_a_broken_record_is_named_by_file_line_and_field(
    tmp_path: Path, kind: Kind, record: toy.Record, message: str
) -> None:
    """Each kind of invalid record is reported by file, line and field, and no other record is."""
    path = toy.write_records(tmp_path / "a.jsonl", [GOOD[kind], record, GOOD[kind]])
    with pytest.raises(DataError, match=rf"\A{path}:2: .*{message}") as caught:
        _read(path, kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line", ["{", '{"text": "a", "label": "b"} x', "[1", "", '"a"', "[]", "3", "null", "9" * 5000, "[" * 10**5]
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    """A line that is not JSON or not an object is an error; an empty line is not."""
    path = tmp_path / "a.jsonl"
    good = json.dumps(GOOD[Kind.CLASSIFICATION])
    path.write_text(f"{good}\n{line}\n{good}\n")
    if not line:
        assert len(_read(path, Kind.CLASSIFICATION)) == 2
        return
    with pytest.raises(DataError, match=rf"\A{path}:2: "):
        _read(path, Kind.CLASSIFICATION)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_line_in_another_encoding_is_named(tmp_path: Path, name: str) -> None:
    """A line that is not UTF-8 is reported with its number."""
    good = json.dumps(GOOD[Kind.CLASSIFICATION]).encode()
    lines = b"\n".join([good, '{"text": "é", "label": "good"}'.encode("latin-1"), good])
    (tmp_path / name).write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    with pytest.raises(DataError, match=rf"\A{tmp_path}/{name}:2: not UTF-8: .*\Z"):
        _read(tmp_path / name, Kind.CLASSIFICATION)


def test_a_byte_order_mark_is_no_part_of_the_first_record(tmp_path: Path) -> None:
    """A file with a byte order mark, as some editors write it, gives the same records."""
    text = "".join(json.dumps(record) + "\n" for record in toy.records(Kind.CLASSIFICATION, 3))
    (tmp_path / "plain.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "marked.jsonl").write_text(text, encoding="utf-8-sig")
    plain, marked = (_read(tmp_path / f"{name}.jsonl", Kind.CLASSIFICATION) for name in ("plain", "marked"))
    assert [located.record for located in marked] == [located.record for located in plain]


def test_all_broken_records_are_reported_at_once(tmp_path: Path) -> None:
    """All invalid records are in one error, by category, and a mistake that is repeated is one line."""
    good, bad = GOOD[Kind.CLASSIFICATION], {"text": "a"}
    path = toy.write_records(tmp_path / "a.jsonl", [bad, good, {"label": "a"}, good, bad])
    with pytest.raises(DataError) as caught:
        _read(path, Kind.CLASSIFICATION)
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [f"{path}:{n}" for n in (1, 3)]
    assert lines[0].endswith("(and 1 more: 5)")


def test_a_missing_field_is_answered_with_those_that_are_there(tmp_path: Path) -> None:
    """A record without a field of its kind is refused with the fields that it has and the one that is likely meant."""
    path = toy.write_records(tmp_path / "a.jsonl", [{"Text": "a", "Label": "x"}] * 30)
    with pytest.raises(DataError) as caught:
        _read(path, Kind.CLASSIFICATION)
    assert str(caught.value) == (
        f"{path}:1: text: Field required; label: Field required; the record has 'Text', 'Label'; did you mean 'Text'? "
        "(and 29 more: 2, 3, 4, …)"
    )


@pytest.mark.parametrize("kind", [Kind.MULTIPLE_CHOICE, Kind.RANKING])
def test_whole_numbers_may_have_a_decimal_point(tmp_path: Path, kind: Kind) -> None:
    """Labels and groups that pandas has made floats are the whole numbers that they were."""
    record = {**GOOD[kind], "group": 7}
    floats = {**record, "group": 7.0, "label": float(record["label"])}
    (exact,), (found,) = (_read(toy.write_records(tmp_path / "a.jsonl", [one]), kind) for one in (record, floats))
    assert found == exact


def test_a_missing_value_of_pandas_is_named(tmp_path: Path) -> None:
    """NaN where a text must be is said to be a missing value."""
    path = toy.write_records(tmp_path / "a.jsonl", [{"text": float("nan"), "label": "x"}])
    with pytest.raises(DataError, match=r"a.jsonl:1: text: .*\(NaN: pandas writes it for a missing value\)\Z"):
        _read(path, Kind.CLASSIFICATION)


def test_a_list_with_a_mistake_is_not_said_to_be_too_short(tmp_path: Path) -> None:
    """One mistake in a list is one message, although the rest of the list would be too short."""
    path = toy.write_records(tmp_path / "a.jsonl", [{"text": "a", "choices": ["b", 3], "label": 0}])
    with pytest.raises(DataError, match=r"\A[^;]*choices\.1: Input should be a valid string\Z"):
        _read(path, Kind.MULTIPLE_CHOICE)


def test_bad_rows_can_be_collected_instead(tmp_path: Path) -> None:
    """With `bad_rows` the valid records are returned, and a file without any is an error all the same."""
    good, bad = GOOD[Kind.CLASSIFICATION], {"text": "a"}
    bad_rows = DataIssues()
    path = toy.write_records(tmp_path / "a.jsonl", [good, bad, good])
    assert len(_read(path, Kind.CLASSIFICATION, bad_rows=bad_rows)) == 2
    assert bad_rows.count == 1
    with pytest.raises(DataError, match=r"a.jsonl:1: label"):
        _read(toy.write_records(path, [bad]), Kind.CLASSIFICATION, bad_rows=DataIssues())


def _unreadable() -> dict[str, bytes]:
    good = b"".join(json.dumps(record).encode() + b"\n" for record in toy.records(Kind.CLASSIFICATION, 50))
    packed = bytearray(gzip.compress(good))
    flipped, unpackable = packed.copy(), packed.copy()
    flipped[len(flipped) // 2] ^= 0xFF
    unpackable[10] = 0xFF  # the first byte behind the header: no such kind of block
    return {
        "not-gzip.jsonl.gz": good,
        "cut-off.jsonl.gz": bytes(packed[:-20]),
        "flipped.jsonl.gz": bytes(flipped),
        "unpackable.jsonl.gz": bytes(unpackable),
        "empty.jsonl": b"",
        "empty.jsonl.gz": gzip.compress(b""),
        "blank.jsonl": b"\n \n",
    }


@pytest.mark.parametrize("name", _unreadable())
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    """Broken compression, another encoding and no records at all are data errors that name the file."""
    path = tmp_path / name
    path.write_bytes(_unreadable()[name])
    with pytest.raises(DataError, match=rf"\A{path}: "):
        _read(path, Kind.CLASSIFICATION)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A missing file, or a folder in its place, is a data error that names the path."""
    (tmp_path / "folder.jsonl").mkdir()
    for path in (tmp_path / "none.jsonl", tmp_path / "none.jsonl.gz", tmp_path / "folder.jsonl"):
        with pytest.raises(DataError, match=rf"\A{path}: cannot be read: "):
            _read(path, Kind.CLASSIFICATION)
