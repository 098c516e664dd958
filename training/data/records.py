"""Labelled records, checked one by one: every broken one is named by file and line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from polytask.model.tasks import Kind
from polytask.training.data.files import Row, is_text_table, read_rows
from polytask.training.data.issues import DataError, DataIssues
from polytask.training.record_schemas import _RECORDS

_LISTS = frozenset({"labels", "choices", "tokens", "tags", "answers"})


@dataclass(frozen=True, slots=True)
class SourcedRecord:
    """A record (of its kind's class), the place it was read from, as `file:line`, and the group it belongs to."""

    record: Any
    location: str
    group: str | int | None = None


def read_records(
    folder: Path, name: str, kind: Kind, columns: Mapping[str, str] | None = None, group_by: str = "group"
) -> list[SourcedRecord]:
    """All records of a file (see `polytask.training.data.files`), in order. Raises DataError on any broken one, or on none.

    `columns`: the column that holds a field, where their names differ. `group_by`: the field that records share
    which belong together; one that is neither text nor a number makes no group.
    """
    issues = DataIssues()
    records: list[SourcedRecord] = []
    schema, columns = _RECORDS[kind], columns or {}
    strings = is_text_table(name)
    for place, raw in read_rows(folder, name, columns.values(), issues):
        row = _renamed(raw, columns)
        group = row.get(group_by)
        try:
            record = schema.model_validate(_decoded(row) if strings else row, strict=not strings)
        except pydantic.ValidationError as error:
            found = [(_field(part["loc"], columns), part) for part in error.errors()]
            message = "; ".join(f"{field}{part['msg']}" for field, part in found)
            issues.add(
                place, message, category="; ".join(f"{_category(part['loc'])} {part['type']}" for _, part in found)
            )
        else:
            records.append(SourcedRecord(record, place, group if isinstance(group, str | int) else None))
    issues.raise_if_any()
    if not records:
        raise DataError(f"{folder / name}: no records")
    return records


def _renamed(raw: Row, columns: Mapping[str, str]) -> Row:
    """The row with the fields that `columns` names in place of whatever else had their names."""
    if not columns:
        return raw
    others = {name: value for name, value in raw.items() if name not in columns}
    return others | {name: raw[column] for name, column in columns.items() if column in raw}


def _decoded(row: Row) -> Row:
    """The row with its lists, which a table of strings holds as JSON; what is no JSON stays, to be refused."""
    return {name: _json_list(value) if name in _LISTS else value for name, value in row.items()}


def _json_list(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _field(location: tuple[str | int, ...], columns: Mapping[str, str]) -> str:
    """The place within a record, as a person reads it, and the column if it has another name."""
    if not location:
        return ""
    column = columns.get(str(location[0]))
    return ".".join(map(str, location)) + (f" (column {column!r})" if column else "") + ": "


def _category(location: tuple[str | int, ...]) -> str:
    return ".".join("*" if isinstance(part, int) else part for part in location)
