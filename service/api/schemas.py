"""Request schemas: one pydantic model per shape of input, and the conversion to and from the model's `Input`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from polytask.model.encoding import Input
from polytask.model.tasks import Kind, Task
from polytask.service.api.options import Options

# Unicode's Default_Ignorable_Code_Point: zero-width and filler characters, which are drawn as nothing.
_INVISIBLE = re.compile(
    r"[\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]*"
)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "must not be blank")
    return text


def _visible(text: str) -> str:
    if _INVISIBLE.fullmatch(text):
        raise PydanticCustomError("blank", "must not be blank")
    return text


Text = Annotated[str, AfterValidator(_visible), Field(min_length=1)]

# Data sets have words such as the sign that makes an emoji of the character before it.
_Word = Annotated[str, AfterValidator(_not_blank), Field(min_length=1)]


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextInput(_Object):
    """One text. A bare string is accepted as well."""

    text: Text = Field(description="the text")


class PairInput(_Object):
    """Two texts, in the order of the task's training data."""

    text: Text = Field(description="the first text")
    text_pair: Text = Field(description="the second text")


class RankingInput(_Object):
    """A query and the candidates to put in order."""

    query: Text = Field(description="what the candidates are compared with")
    candidates: list[Text] = Field(min_length=1, description="the texts to put in order")


class ChoiceInput(_Object):
    """A text, optionally a question about it, and the choices."""

    text: Text = Field(description="the premise, or the question itself")
    question: Text | None = Field(default=None, description="put behind the text")
    choices: list[Text] = Field(min_length=2, description="the texts to choose from")


class TokensInput(_Object):
    """A text that is already split into words. Offsets in answers count characters of the words joined by single spaces."""

    tokens: list[_Word] = Field(min_length=1, description="the words, instead of `text`")


class SpanInput(_Object):
    """A question and the text that holds its answer."""

    question: Text = Field(description="the question")
    context: Text = Field(description="the text to find the answer in")


def _shape(value: Any) -> str:
    if isinstance(value, str):
        return "<string>"
    return "<words>" if isinstance(value, dict) and "tokens" in value else "<object>"


def _text_shape(value: Any) -> str:
    return "<string>" if isinstance(value, str) else "<object>"


_StringOrText = Annotated[
    Annotated[Text, Tag("<string>")] | Annotated[TextInput, Tag("<object>")], Discriminator(_text_shape)
]


_StringOrTextOrTokens = Annotated[
    Annotated[Text, Tag("<string>")] | Annotated[TextInput, Tag("<object>")] | Annotated[TokensInput, Tag("<words>")],
    Discriminator(_shape),
]


class OnError(StrEnum):
    """Treatment of a bad input: it fails the request, or gets a problem in place of its answer."""

    FAIL = "fail"
    PER_ITEM = "per_item"


class _Request(_Object):
    options: Options | None = Field(default=None, description="how answers are made, where the defaults do not fit")
    errors: Annotated[OnError, Field(strict=False)] = Field(
        default=OnError.FAIL,
        description='`fail`: one bad input fails the request; `per_item`: it gets `{"error": problem}` in place of its answer, '
        "and the others get their answers",
    )


class AnyRequest(_Request):
    """A request whose inputs are not checked yet."""

    inputs: list[Any] = Field(min_length=1)


class TasksRequest(AnyRequest):
    """Several tasks for the same inputs."""

    tasks: list[str] = Field(min_length=1, description="names of tasks, as in GET /v1/tasks")


class TextRequest(_Request):
    """For tasks that read one text."""

    inputs: list[_StringOrText] = Field(min_length=1)


class PairRequest(_Request):
    """For tasks that read two texts."""

    inputs: list[PairInput] = Field(min_length=1)


class RankingRequest(_Request):
    """For ranking tasks."""

    inputs: list[RankingInput] = Field(min_length=1)


class ChoiceRequest(_Request):
    """For multiple-choice tasks."""

    inputs: list[ChoiceInput] = Field(min_length=1)


class TaggingRequest(_Request):
    """For tagging tasks."""

    inputs: list[_StringOrTextOrTokens] = Field(min_length=1)


class SpanRequest(_Request):
    """For span tasks."""

    inputs: list[SpanInput] = Field(min_length=1)


class LoadRequest(_Object):
    """The version to load beside the active one, and how much its answers may differ from it."""

    model: str = Field(min_length=1, description="NAME/VERSION, or NAME for its current version")
    tolerances: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict, description="by task, from 0 to 1; for all other tasks POLYTASK_SWAP_TOLERANCE holds"
    )


PredictRequest = TextRequest | PairRequest | RankingRequest | ChoiceRequest | TaggingRequest | SpanRequest


_REQUESTS: dict[Kind, tuple[type[PredictRequest], tuple[type[_Object], ...]]] = {
    Kind.RANKING: (RankingRequest, (RankingInput,)),
    Kind.MULTIPLE_CHOICE: (ChoiceRequest, (ChoiceInput,)),
    Kind.TAGGING: (TaggingRequest, (TextInput, TokensInput)),
    Kind.SPAN: (SpanRequest, (SpanInput,)),
}


@dataclass(frozen=True, slots=True)
class InputField:
    """A field of a task's inputs. Where an input has alternatives (`text` or `tokens`), no field is required."""

    name: str
    type: str
    required: bool
    description: str


def to_input(item: str | _Object) -> Input:
    """A validated input as the model's `Input`."""
    match item:
        case str():
            return Input(item)
        case PairInput():
            return Input(item.text, item.text_pair)
        case RankingInput():
            return Input(item.query, candidates=tuple(item.candidates))
        case ChoiceInput():
            text = item.text if item.question is None else f"{item.text} {item.question}"
            return Input(text, candidates=tuple(item.choices))
        case TokensInput():
            return Input.from_words(item.tokens)
        case SpanInput():
            return Input(item.question, item.context)
        case TextInput():
            return Input(item.text)
    raise AssertionError(f"no such input: {type(item)}")


def from_input(task: Task, item: Input) -> str | dict[str, Any]:
    """The model's `Input` as a client would send it."""
    if task.kind is Kind.RANKING:
        return {"query": item.text, "candidates": list(item.candidates)}
    if task.kind is Kind.MULTIPLE_CHOICE:
        return {"text": item.text, "choices": list(item.candidates)}
    if task.kind is Kind.SPAN:
        return {"question": item.text, "context": item.text_pair}
    if task.pair:
        return {"text": item.text, "text_pair": item.text_pair}
    if item.words is not None:
        return {"tokens": [item.text[start:end] for start, end in item.words]}
    return item.text


def input_fields(task: Task) -> list[InputField]:
    """The fields of the inputs of `task`."""
    _, models = request_models(task)
    return [
        InputField(
            name=name,
            type="array of strings" if "list" in str(field.annotation) else "string",
            required=field.is_required() and len(models) == 1,
            description=field.description or "",
        )
        for model in models
        for name, field in model.model_fields.items()
    ]


def request_models(task: Task) -> tuple[type[PredictRequest], tuple[type[_Object], ...]]:
    """The request model of `task`, and the object models of its inputs."""
    if task.kind in _REQUESTS:
        return _REQUESTS[task.kind]
    return (PairRequest, (PairInput,)) if task.pair else (TextRequest, (TextInput,))


def field_names(task: Task) -> str:
    """The fields of the task's inputs, for an error message."""
    return " or ".join(" and ".join(model.model_fields) for model in request_models(task)[1])
