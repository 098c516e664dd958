"""Record schemas: the fields of a labelled record by kind of task, as pydantic models."""

from __future__ import annotations

import json
from typing import Annotated

import pydantic
from pydantic import Field

from polytask.model.tasks import Kind


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Text = Annotated[str, Field(min_length=1), pydantic.AfterValidator(_not_blank)]
"""A text that is not blank, as in the service, so that no text is trained on that it would refuse."""


def _label_name(label: object) -> object:
    """The name of a label that is a whole number or a boolean: its JSON text."""
    whole = isinstance(label, int) or (isinstance(label, float) and label.is_integer())
    return json.dumps(label) if whole else label


Label = Annotated[Text, pydantic.BeforeValidator(_label_name)]


def _whole(number: object) -> object:
    """A whole number as such, if a table with missing values has stored it with a decimal point."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


WholeNumber = Annotated[int, pydantic.BeforeValidator(_whole)]


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", strict=True)


class ClassificationRecord(_Record):
    """A text or a pair, and its label."""

    text: Text
    text_pair: Text | None = None
    label: Label


class MultilabelRecord(_Record):
    """A text or a pair, and all labels that apply."""

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
    label: Annotated[int | str, pydantic.BeforeValidator(_whole)]


class MultipleChoiceRecord(_Record):
    """A premise or question, the choices, and the index of the right one."""

    text: Text
    question: str = ""
    choices: list[Text] = Field(min_length=2)
    label: Annotated[WholeNumber, Field(ge=0)]

    @pydantic.model_validator(mode="after")
    def _label_is_a_choice(self) -> MultipleChoiceRecord:
        if self.label >= len(self.choices):
            raise ValueError(f"label {self.label} is not one of the {len(self.choices)} choices (counted from 0)")
        return self


class TaggingRecord(_Record):
    """Words, and a tag for each word."""

    tokens: list[Text] = Field(min_length=1)
    tags: list[Label]

    @pydantic.model_validator(mode="after")
    def _one_tag_a_token(self) -> TaggingRecord:
        if len(self.tokens) != len(self.tags):
            raise ValueError(f"{len(self.tokens)} tokens but {len(self.tags)} tags")
        return self


class SpanAnswerRecord(_Record):
    """A right answer and its start in the context, in characters."""

    text: Text
    start: Annotated[WholeNumber, Field(ge=0)]


def _list_of_answers(answers: object) -> object:
    """The answers of SQuAD in the form of the Hugging Face hub, a list of texts and one of starts, as a single list."""
    if isinstance(answers, dict) and isinstance(answers.get("text"), list):
        starts = answers.get("answer_start")
        if isinstance(starts, list) and len(starts) == len(answers["text"]):
            return [{"text": text, "start": start} for text, start in zip(answers["text"], starts, strict=True)]
    return answers


class SpanRecord(_Record):
    """A question, its context, and the right answers; none for a question that the context does not answer."""

    text: Text
    text_pair: Text
    answers: Annotated[list[SpanAnswerRecord], pydantic.BeforeValidator(_list_of_answers)]

    @pydantic.model_validator(mode="after")
    def _answers_are_in_the_context(self) -> SpanRecord:
        for answer in self.answers:
            text_there = self.text_pair[answer.start : answer.start + len(answer.text)]
            if text_there != answer.text:
                raise ValueError(
                    f"answer {answer.text!r} is not at {answer.start}: the context has {text_there!r} there"
                )
        return self


RECORD_CLASSES: dict[Kind, type[_Record]] = {
    Kind.CLASSIFICATION: ClassificationRecord,
    Kind.MULTILABEL: MultilabelRecord,
    Kind.REGRESSION: RegressionRecord,
    Kind.RANKING: RankingRecord,
    Kind.MULTIPLE_CHOICE: MultipleChoiceRecord,
    Kind.TAGGING: TaggingRecord,
    Kind.SPAN: SpanRecord,
}


def field_names(kind: Kind) -> frozenset[str]:
    """The fields of the kind's records."""
    return frozenset(RECORD_CLASSES[kind].model_fields)


def required_fields(kind: Kind) -> list[str]:
    """The fields that every record of the kind has."""
    return [name for name, field in RECORD_CLASSES[kind].model_fields.items() if field.is_required()]
