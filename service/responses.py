"""What a client gets: answers with what was read for them, as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

import msgspec

from model.answers import Answer
from model.encoding import Encoding, Input, Token
from model.tasks import Kind, Task
from service.errors import ServiceError

_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in get_args(Answer)}
_ENCODER = msgspec.json.Encoder()

Told = Mapping[str, Any]
"""An answer, or a problem in the place of one, as a client gets it."""


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


def told(answer: Answer, rows: Sequence[Encoding]) -> dict[str, Any]:
    """An answer with the number of tokens that were read for it, and of those that were cut off."""
    found = {name: getattr(answer, name) for name in _FIELDS[type(answer)]}
    found["tokens"] = sum(map(len, rows))
    found["dropped_tokens"] = sum(row.dropped_tokens for row in rows)
    return found


def told_error(error: ServiceError) -> Told:
    """A problem in the place of an answer."""
    problem = error.problem()
    parts = {field.name: getattr(problem, field.name) for field in fields(problem)}
    return {"error": {name: value for name, value in parts.items() if value is not None}}


def told_tokens(task: Task, item: Input, tokens: Sequence[Token]) -> list[ReadToken]:
    """The tokens of a row by the names of the input's fields."""
    return [ReadToken(token.token, _field(task, item, token.text), token.start, token.end) for token in tokens]


def response(task: str, model: str, answers: Sequence[Told], usage: Usage) -> bytes:
    """The response of one task."""
    return _ENCODER.encode({"task": task, "model": model, "answers": answers, "usage": usage})


def response_of_tasks(model: str, answers: Mapping[str, Sequence[Told]], usage: Usage) -> bytes:
    """The response of several tasks."""
    results = {task: {"answers": own} for task, own in answers.items()}
    return _ENCODER.encode({"model": model, "results": results, "usage": usage})


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
