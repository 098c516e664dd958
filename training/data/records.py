"""Records: the raw records of a file, checked one by one; every invalid one is named by file and line."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from polytask.model.tasks import Kind
from polytask.training.data.files import Row, has_columns, is_text_table, read_rows
from polytask.training.data.issues import DataError, DataIssues
from polytask.training.recipes.validation_errors import did_you_mean, error_details
from polytask.training.record_schemas import RECORD_CLASSES, required_fields

_LISTS = frozenset({"labels", "choices", "tokens", "tags", "answers"})


@dataclass(frozen=True, slots=True)
class SourcedRecord:
    """A record (of its kind's class), its location as `file:line`, and the group it belongs to."""

    record: Any
    location: str
    group: str | int | None = None


def read_records(
    folder: Path,
    name: str,
    kind: Kind,
    columns: Mapping[str, str] | None = None,
    group_by: str = "group",
    *,
    grouped: bool = False,
    bad_rows: DataIssues | None = None,
) -> list[SourcedRecord]:
    """All records of a file (see `polytask.training.data.files`), in order. Raises DataError for invalid ones, or if none.

    `columns`: the file's column of a field, if their names differ. `group_by`: the field whose value records of a group
    share; a value that is neither text nor a whole number is ignored. `grouped`: the file must have the field. With
    `bad_rows`, rows that are no valid records are added to it and left out; of a ranking with their whole query.
    """
    issues = DataIssues() if bad_rows is None else bad_rows
    records: list[SourcedRecord] = []
    bad_groups: set[str | int | None] = set()
    schema, columns = RECORD_CLASSES[kind], columns or {}
    strings = is_text_table(name)
    required = [*required_fields(kind), *([group_by] if grouped else [])]
    needed = [*columns.values(), *(field for field in required if field not in columns)]
    for location, raw in read_rows(folder, name, needed, issues):
        row = _rename_columns(raw, columns)
        try:
            record = schema.model_validate(_decode_lists(row) if strings else row, strict=not strings)
        except pydantic.ValidationError as error:
            issues.add(location, *_problem(error, raw, columns, name))
            bad_groups.add(_group(row.get(group_by)))
        else:
            records.append(SourcedRecord(record, location, _group(row.get(group_by))))
    if bad_rows is None:
        issues.raise_if_any()
    elif kind is Kind.RANKING:
        records = whole_queries(records, bad_groups, issues)
    if not records:
        issues.raise_if_any()
        raise DataError(f"{folder / name}: no records")
    return records


def whole_queries(
    records: Sequence[SourcedRecord], bad_groups: Collection[str | int | None], issues: DataIssues
) -> list[SourcedRecord]:
    """The candidates of queries of which none is a bad row; the others become issues.

    Without its right answer a query would be learnt as one that has none.
    """
    for sourced in records:
        if sourced.group in bad_groups:
            issues.add(sourced.location, "another candidate of its query is a bad row")
    return [sourced for sourced in records if sourced.group not in bad_groups]


def _group(value: object) -> str | int | None:
    """The group as text or a whole number, which a table with missing values has stored with a decimal point."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, str | int) else None


def _problem(error: pydantic.ValidationError, raw: Row, columns: Mapping[str, str], name: str) -> tuple[str, str]:
    """What is wrong with a row, as message and category."""
    details = [(_field(detail["loc"], columns), detail) for detail in error_details(error)]
    message = "; ".join(f"{field}{detail['msg']}{_hint(detail['input'])}" for field, detail in details)
    category = "; ".join(f"{_field_path(detail['loc'])} {detail['type']}" for _, detail in details)
    missing = [
        str(detail["loc"][0]) for _, detail in details if detail["type"] == "missing" and len(detail["loc"]) == 1
    ]
    if missing and not has_columns(name):
        there = ", ".join(map(repr, raw)) or "no field"
        question = did_you_mean(columns.get(missing[0], missing[0]), raw)
        message += f"; the record has {there}{question}"
    elif missing:
        message += "; it has no value in this row"
    return message, category


def _hint(value: object) -> str:
    return " (NaN: pandas writes it for a missing value)" if isinstance(value, float) and math.isnan(value) else ""


def _rename_columns(raw: Row, columns: Mapping[str, str]) -> Row:
    """The row with its columns renamed to fields. Other columns with a field's name are dropped."""
    if not columns:
        return raw
    others = {name: value for name, value in raw.items() if name not in columns}
    return others | {name: raw[column] for name, column in columns.items() if column in raw}


def _decode_lists(row: Row) -> Row:
    """The row with its lists, which tables of strings hold as JSON. Invalid JSON stays and is refused later."""
    return {name: _json_list(value) if name in _LISTS else value for name, value in row.items()}


def _json_list(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _field(location: tuple[str | int, ...], columns: Mapping[str, str]) -> str:
    """The path of a field within a record for messages, with its column if that has another name."""
    if not location:
        return ""
    column = columns.get(str(location[0]))
    return ".".join(map(str, location)) + (f" (column {column!r})" if column else "") + ": "


def _field_path(location: tuple[str | int, ...]) -> str:
    return ".".join("*" if isinstance(part, int) else part for part in location)
