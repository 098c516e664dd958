"""Tests of training/records.py."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from model.tasks import Kind
from tests.training import toy
from training.records import DataError, Problems, read_records

GOOD = {kind: toy.records(kind, 1)[0] for kind in Kind}


def _dumped(path: Path, kind: Kind) -> list[dict[str, Any]]:
    return [located.record.model_dump() for located in read_records(path, kind)]


@pytest.mark.parametrize("kind", Kind)
def test_records_arrive_as_they_are_written(tmp_path: Path, kind: Kind) -> None:
    """Every field of every record of every kind arrives, in order, and the place is file and line."""
    lines = toy.records(kind, 5)
    path = toy.write_records(tmp_path / "a.jsonl", lines)
    found = read_records(path, kind)
    assert [located.record.model_dump(include=set(lines[0])) for located in found] == lines
    assert [located.place for located in found] == [f"{path}:{number}" for number in range(1, len(lines) + 1)]


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
    ],
)
def test_variants_of_a_format_are_read(tmp_path: Path, kind: Kind, record: toy.Record) -> None:
    """Pairs, whole numbers as values, no labels at all, no question and several answers are all in the formats."""
    (found,) = _dumped(toy.write_records(tmp_path / "a.jsonl", [record]), kind)
    assert {name: found[name] for name in record} == record


def test_other_fields_may_be_there(tmp_path: Path) -> None:
    """Unknown fields are left out, except for ranking, where the recipe may group by one."""
    for kind in Kind:
        path = toy.write_records(tmp_path / "a.jsonl", [{**GOOD[kind], "origin": "book"}])
        (found,) = _dumped(path, kind)
        assert found.get("origin") == ("book" if kind is Kind.RANKING else None)


def test_blank_lines_count_but_hold_no_record(tmp_path: Path) -> None:
    """Blank lines are passed over, and line numbers stay those of the file."""
    path = tmp_path / "a.jsonl"
    line = json.dumps(GOOD[Kind.CLASSIFICATION])
    path.write_text(f"{line}\n\n  \n{line}")
    assert [located.place for located in read_records(path, Kind.CLASSIFICATION)] == [f"{path}:1", f"{path}:4"]


BROKEN = [
    (Kind.CLASSIFICATION, {"label": "good"}, "text: Field required"),
    (Kind.CLASSIFICATION, {"text": "", "label": "good"}, "text: .*at least 1 character"),
    (Kind.CLASSIFICATION, {"text": 3, "label": "good"}, "text: .*valid string"),
    (Kind.CLASSIFICATION, {"text": "a", "text_pair": "", "label": "good"}, "text_pair: "),
    (Kind.CLASSIFICATION, {"text": "a"}, "label: Field required"),
    (Kind.CLASSIFICATION, {"text": "a", "label": 1}, "label: .*valid string"),
    (Kind.CLASSIFICATION, {"text": "a", "label": ""}, "label: "),
    (Kind.CLASSIFICATION, {"text": "a \ud800", "label": "good"}, "text: "),
    (Kind.MULTILABEL, {"text": "a", "labels": "cats"}, "labels: .*valid list"),
    (Kind.MULTILABEL, {"text": "a", "labels": ["cats", 2]}, r"labels\.1: "),
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
    (Kind.SPAN, {"text": "a", "text_pair": "b", "answers": []}, "answers: .*at least 1"),
    (Kind.SPAN, {"text": "a", "text_pair": "b", "answers": [{"text": "b", "start": -1}]}, r"answers\.0\.start: "),
    (Kind.SPAN, {"text": "a", "text_pair": "b c", "answers": [{"text": "c", "start": 1}]}, "answer 'c' is not at 1"),
    (Kind.SPAN, {"text": "a", "text_pair": "b c", "answers": [{"text": "c d", "start": 2}]}, "the context has 'c'"),
]


@pytest.mark.parametrize(("kind", "record", "message"), BROKEN)
def test_a_broken_record_is_named_by_file_line_and_field(
    tmp_path: Path, kind: Kind, record: toy.Record, message: str
) -> None:
    """Whatever is wrong with a record, the error names the file, the line, the field, and only that record."""
    path = toy.write_records(tmp_path / "a.jsonl", [GOOD[kind], record, GOOD[kind]])
    with pytest.raises(DataError, match=rf"\A{path}:2: .*{message}") as caught:
        read_records(path, kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line", ["{", '{"text": "a", "label": "b"} x', "[1", "", '"a"', "[]", "3", "null", "9" * 5000, "[" * 10**5]
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    """A line that is not JSON, or not an object, is a broken record like any other; an empty line is none."""
    path = tmp_path / "a.jsonl"
    good = json.dumps(GOOD[Kind.CLASSIFICATION])
    path.write_text(f"{good}\n{line}\n{good}\n")
    if not line:
        assert len(read_records(path, Kind.CLASSIFICATION)) == 2
        return
    with pytest.raises(DataError, match=rf"\A{path}:2: "):
        read_records(path, Kind.CLASSIFICATION)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_line_in_another_encoding_is_named(tmp_path: Path, name: str) -> None:
    """A line that is not UTF-8 is a broken record like any other."""
    good = json.dumps(GOOD[Kind.CLASSIFICATION]).encode()
    lines = b"\n".join([good, '{"text": "é", "label": "good"}'.encode("latin-1"), good])
    (tmp_path / name).write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    with pytest.raises(DataError, match=rf"\A{tmp_path}/{name}:2: not UTF-8: .*\Z"):
        read_records(tmp_path / name, Kind.CLASSIFICATION)


def test_a_byte_order_mark_is_no_part_of_the_first_record(tmp_path: Path) -> None:
    """A file with a byte order mark, as some editors write it, has the same records."""
    text = "".join(json.dumps(record) + "\n" for record in toy.records(Kind.CLASSIFICATION, 3))
    (tmp_path / "plain.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "marked.jsonl").write_text(text, encoding="utf-8-sig")
    plain, marked = (read_records(tmp_path / f"{name}.jsonl", Kind.CLASSIFICATION) for name in ("plain", "marked"))
    assert [located.record for located in marked] == [located.record for located in plain]


def test_all_broken_records_are_reported_at_once(tmp_path: Path) -> None:
    """Each of several broken records is named in the one error, in file order."""
    good, bad = GOOD[Kind.CLASSIFICATION], {"text": "a"}
    path = toy.write_records(tmp_path / "a.jsonl", [bad, good, {"label": "a"}, good, bad])
    with pytest.raises(DataError) as caught:
        read_records(path, Kind.CLASSIFICATION)
    lines = str(caught.value).splitlines()
    assert [line.rpartition(": ")[0].partition(": ")[0] for line in lines] == [f"{path}:{n}" for n in (1, 3, 5)]


@pytest.mark.parametrize("count", [19, 20, 21, 45])
def test_the_first_twenty_problems_are_listed_and_the_rest_counted(count: int) -> None:
    """However many problems there are, 20 are listed and the number of the others is said."""
    problems = Problems()
    for number in range(count):
        problems.add(f"file:{number}", "broken")
    with pytest.raises(DataError) as caught:
        problems.raise_if_any()
    listed = [f"file:{number}: broken" for number in range(min(count, 20))]
    assert str(caught.value).splitlines() == listed + ([f"… and {count - 20} more"] if count > 20 else [])


def test_no_problem_is_no_error() -> None:
    """Nothing noted, nothing raised."""
    Problems().raise_if_any()


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
        read_records(path, Kind.CLASSIFICATION)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """So is a file that is not there, and a folder in its place."""
    for path in (tmp_path / "none.jsonl", tmp_path / "none.jsonl.gz", tmp_path):
        with pytest.raises(DataError, match=rf"\A{path}: cannot be read: "):
            read_records(path, Kind.CLASSIFICATION)
