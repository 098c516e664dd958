"""Labelled records from JSON lines, checked one by one: every broken one is named by file and line."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import Field

from model.tasks import Kind

_MOST_PROBLEMS = 20

Read = TypeVar("Read")


class DataError(Exception):
    """Records that cannot be trained on; the message names file and line of each (the first 20)."""


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Text = Annotated[str, Field(min_length=1), pydantic.AfterValidator(_not_blank)]
"""As in the service: what it would refuse is not trained on."""


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", strict=True)


class ClassificationRecord(_Record):
    """A text or a pair, and its label."""

    text: Text
    text_pair: Text | None = None
    label: Text


class MultilabelRecord(_Record):
    """A text and all labels that hold."""

    text: Text
    text_pair: Text | None = None
    labels: list[Text]


class RegressionRecord(_Record):
    """A text or a pair, and its value."""

    text: Text
    text_pair: Text | None = None
    label: float = Field(allow_inf_nan=False)


class RankingRecord(_Record):
    """One candidate of a query; the records of a query share the field named by the recipe's `group_by`."""

    model_config = pydantic.ConfigDict(frozen=True, extra="allow", strict=True)
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
    tags: list[Text]

    @pydantic.model_validator(mode="after")
    def _one_tag_a_token(self) -> TaggingRecord:
        if len(self.tokens) != len(self.tags):
            raise ValueError(f"{len(self.tokens)} tokens but {len(self.tags)} tags")
        return self


class SpanAnswerRecord(_Record):
    """A right answer and where it starts in the context, in characters."""

    text: Text
    start: int = Field(ge=0)


class SpanRecord(_Record):
    """A question, its context, and the right answers."""

    text: Text
    text_pair: Text
    answers: list[SpanAnswerRecord] = Field(min_length=1)

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
    """A record (of its kind's class) and the place it was read from, as `file:line`."""

    record: Any
    place: str


class Problems:
    """Collects what is wrong with records and raises it all at once."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._count = 0

    def add(self, place: str, message: str) -> None:
        """Notes a problem; the first 20 are kept word for word."""
        self._count += 1
        if len(self._lines) < _MOST_PROBLEMS:
            self._lines.append(f"{place}: {message}")

    def raise_if_any(self) -> None:
        """Raises DataError with every noted problem."""
        if self._count:
            more = self._count - len(self._lines)
            raise DataError("\n".join(self._lines) + (f"\n… and {more} more" if more else ""))


def read_all(readers: Iterable[Callable[[], Read]]) -> list[Read]:
    """What each of the readers gives. Raises one DataError with what all of them found wrong."""
    found, wrong = [], []
    for reader in readers:
        try:
            found.append(reader())
        except DataError as error:
            wrong.append(str(error))
    if wrong:
        raise DataError("\n".join(wrong))
    return found


def read_records(path: Path, kind: Kind) -> list[Located]:
    """All records of a `.jsonl` or `.jsonl.gz` file, in order. Raises DataError on any broken one, or on none."""
    problems = Problems()
    records: list[Located] = []
    schema = _RECORDS[kind]
    for place, line in _lines(path):
        try:
            records.append(Located(schema.model_validate(json.loads(line.decode("utf-8"))), place))
        except pydantic.ValidationError as error:
            problems.add(place, "; ".join(_describe(e["loc"], e["msg"]) for e in error.errors()))
        except UnicodeDecodeError as error:
            problems.add(place, f"not UTF-8: {error}")
        except (ValueError, RecursionError) as error:
            problems.add(place, f"not valid JSON: {error}")
    problems.raise_if_any()
    if not records:
        raise DataError(f"{path}: no records")
    return records


def _describe(location: Sequence[str | int], message: str) -> str:
    field = ".".join(map(str, location))
    return f"{field}: {message}" if field else message


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """The lines that are not blank, each with its place; a byte order mark before the first is left out."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if content.strip():
                    yield f"{path}:{number}", content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
