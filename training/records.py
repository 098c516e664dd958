"""Labelled records, checked one by one: every broken one is named by file and line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field

from model.tasks import Kind
from training.files import Row, is_text_table, read_rows
from training.problems import DataError, Problems

_LISTS = frozenset({"labels", "choices", "tokens", "tags", "answers"})


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Text = Annotated[str, Field(min_length=1), pydantic.AfterValidator(_not_blank)]
"""As in the service: what it would refuse is not trained on."""


def _name_of(label: object) -> object:
    """A label that is numbered, or true or false, is named as it is written."""
    return json.dumps(label) if isinstance(label, int) else label


Label = Annotated[Text, pydantic.BeforeValidator(_name_of)]


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", strict=True)


class ClassificationRecord(_Record):
    """A text or a pair, and its label."""

    text: Text
    text_pair: Text | None = None
    label: Label


class MultilabelRecord(_Record):
    """A text and all labels that hold."""

    text: Text
    text_pair: Text | None = None
    labels: list[Label]


class RegressionRecord(_Record):
    """A text or a pair, and its value."""

    text: Text
    text_pair: Text | None = None
    label: float = Field(allow_inf_nan=False)


class RankingRecord(_Record):
    """One candidate of a query; the records of a query share the field named by the recipe's `group_by`."""

    text: Text
    text_pair: Text
    label: int | str


class MultipleChoiceRecord(_Record):
    """A premise or question, the choices, and the index of the right one."""

    text: Text
    question: str = ""
    choices: list[Text] = Field(min_length=2)
    label: int = Field(ge=0)

    @pydantic.model_validator(mode="after")
    def _label_is_a_choice(self) -> MultipleChoiceRecord:
        if self.label >= len(self.choices):
            raise ValueError(f"label {self.label} is not one of the {len(self.choices)} choices (counted from 0)")
        return self


class TaggingRecord(_Record):
    """Words and a tag for each."""

    tokens: list[Text] = Field(min_length=1)
    tags: list[Label]

    @pydantic.model_validator(mode="after")
    def _one_tag_a_token(self) -> TaggingRecord:
        if len(self.tokens) != len(self.tags):
            raise ValueError(f"{len(self.tokens)} tokens but {len(self.tags)} tags")
        return self


class SpanAnswerRecord(_Record):
    """A right answer and where it starts in the context, in characters."""

    text: Text
    start: int = Field(ge=0)


def _one_by_one(answers: object) -> object:
    """The answers of SQuAD as the Hugging Face hub has them, a list of texts and one of starts, as one list."""
    if isinstance(answers, dict) and isinstance(answers.get("text"), list):
        starts = answers.get("answer_start")
        if isinstance(starts, list) and len(starts) == len(answers["text"]):
            return [{"text": text, "start": start} for text, start in zip(answers["text"], starts, strict=True)]
    return answers


class SpanRecord(_Record):
    """A question, its context, and the right answers."""

    text: Text
    text_pair: Text
    answers: Annotated[list[SpanAnswerRecord], Field(min_length=1), pydantic.BeforeValidator(_one_by_one)]

    @pydantic.model_validator(mode="after")
    def _answers_are_in_the_context(self) -> SpanRecord:
        for answer in self.answers:
            found = self.text_pair[answer.start : answer.start + len(answer.text)]
            if found != answer.text:
                raise ValueError(f"answer {answer.text!r} is not at {answer.start}: the context has {found!r} there")
        return self


_RECORDS: dict[Kind, type[_Record]] = {
    Kind.CLASSIFICATION: ClassificationRecord,
    Kind.MULTILABEL: MultilabelRecord,
    Kind.REGRESSION: RegressionRecord,
    Kind.RANKING: RankingRecord,
    Kind.MULTIPLE_CHOICE: MultipleChoiceRecord,
    Kind.TAGGING: TaggingRecord,
    Kind.SPAN: SpanRecord,
}


@dataclass(frozen=True, slots=True)
class Located:
    """A record (of its kind's class), the place it was read from, as `file:line`, and the group it belongs to."""

    record: Any
    place: str
    group: str | int | None = None


def field_names(kind: Kind) -> frozenset[str]:
    """The fields of the kind's records."""
    return frozenset(_RECORDS[kind].model_fields)


def read_records(
    folder: Path, name: str, kind: Kind, columns: Mapping[str, str] | None = None, group_by: str = "group"
) -> list[Located]:
    """All records of a file (see `training.files`), in order. Raises DataError on any broken one, or on none.

    `columns`: the column that holds a field, where their names differ. `group_by`: the field that records share
    which belong together; one that is neither text nor a number makes no group.
    """
    problems = Problems()
    records: list[Located] = []
    schema, columns = _RECORDS[kind], columns or {}
    strings = is_text_table(name)
    for place, raw in read_rows(folder, name, columns.values(), problems):
        row = _renamed(raw, columns)
        group = row.get(group_by)
        try:
            record = schema.model_validate(_decoded(row) if strings else row, strict=not strings)
        except pydantic.ValidationError as error:
            found = [(_field(part["loc"], columns), part) for part in error.errors()]
            message = "; ".join(f"{field}{part['msg']}" for field, part in found)
            problems.add(place, message, sort="; ".join(f"{_sort(part['loc'])} {part['type']}" for _, part in found))
        else:
            records.append(Located(record, place, group if isinstance(group, str | int) else None))
    problems.raise_if_any()
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


def _sort(location: tuple[str | int, ...]) -> str:
    return ".".join("*" if isinstance(part, int) else part for part in location)
