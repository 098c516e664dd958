"""Responses: answers, token counts and problems as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

import msgspec

from polytask.model.answers import Answer
from polytask.model.encoding import Encoding, Input, Token
from polytask.model.tasks import Kind, Task
from polytask.service.errors import ServiceError

_ANSWER_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in get_args(Answer)}
_ENCODER = msgspec.json.Encoder()

AnswerJson = dict[str, Any]
"""An answer, or the problem that replaces it, as JSON values."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request has cost. `rows`: what the network ran, one for each input, task, candidate and window.

    `tokens`: of those rows, those that the tokenizer puts around texts included.
    """

    inputs: int
    rows: int
    tokens: int


@dataclass(frozen=True, slots=True)
class ReadToken:
    """A token that was read: `field` of the input, characters `start` to before `end` of it."""

    token: str
    field: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PredictResponse:
    """One answer per input, in order."""

    task: str
    model: str
    answers: list[AnswerJson]
    usage: Usage


@dataclass(frozen=True, slots=True)
class TaskAnswers:
    """One answer per input, in order."""

    answers: list[AnswerJson]


@dataclass(frozen=True, slots=True)
class TasksResponse:
    """The answers of several tasks, by task."""

    model: str
    results: dict[str, TaskAnswers]
    usage: Usage


def answer_json(answer: Answer, rows: Sequence[Encoding]) -> AnswerJson:
    """An answer with the token counts of its rows."""
    return {name: getattr(answer, name) for name in _ANSWER_FIELDS[type(answer)]} | token_counts(rows)


def token_counts(rows: Sequence[Encoding]) -> dict[str, int]:
    """Numbers of tokens that were read and that were dropped by truncation, over all rows of an input."""
    return {"tokens": sum(map(len, rows)), "dropped_tokens": sum(row.dropped_tokens for row in rows)}


def error_json(error: ServiceError) -> AnswerJson:
    """The problem that replaces the answer to an invalid input."""
    problem = error.problem()
    values = {field.name: getattr(problem, field.name) for field in fields(problem)}
    return {"error": {name: value for name, value in values.items() if value is not None}}


def token_json(task: Task, item: Input, tokens: Sequence[Token]) -> list[ReadToken]:
    """The tokens of a row, with the input field that each comes from."""
    return [ReadToken(token.token, _field(task, item, token.text), token.start, token.end) for token in tokens]


def encode_response(response: PredictResponse | TasksResponse) -> bytes:
    """A response as JSON."""
    return _ENCODER.encode(response)


def _field(task: Task, item: Input, text: int) -> str:
    if task.kind is Kind.RANKING:
        return f"candidates[{text - 1}]" if text else "query"
    if task.kind is Kind.MULTIPLE_CHOICE:
        return f"choices[{text - 1}]" if text else "text"
    if task.kind is Kind.SPAN:
        return "context" if text else "question"
    if item.words is not None:
        return "tokens"
    return "text_pair" if text else "text"
