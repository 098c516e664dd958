"""Prepared request: parses and encodes a body into rows, and renders the response from their logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from polytask.model.answers import AnswerOptions, Logits, answer
from polytask.model.encoding import (
    Check,
    Encoding,
    EncodingLimits,
    Input,
    InputEncoder,
    TokenCache,
    TooManyTokens,
    go_on,
)
from polytask.model.tasks import LABELLED_KINDS, Kind, Task
from polytask.model.truncation import Truncation
from polytask.model_store.manifest import Golden
from polytask.service.api.answer_size import RequestSize, max_answers_bytes
from polytask.service.api.options import Options, answer_options
from polytask.service.api.parsing import parse, parse_for_tasks
from polytask.service.api.responses import (
    AnswerJson,
    PredictResponse,
    TaskAnswers,
    TasksResponse,
    Usage,
    answer_json,
    encode_response,
    error_json,
    token_counts,
    token_json,
)
from polytask.service.config.settings import Settings
from polytask.service.errors import AnswersTooLarge, FieldError, InvalidInput, ServiceError, TooManyInputs
from polytask.service.observability.prediction_metrics import PredictionMetrics

_INPUTS_ENCODED_AT_ONCE = 16
"""Inputs that are tokenised between two checks of the token limit, so that an oversized request costs little."""

_DEFAULT_OPTIONS = Options()


@dataclass(slots=True)
class TaskPart:
    """The part of a request that one task answers. `encodings`: the rows of each item; a refused item has none."""

    task_id: int
    task: Task
    options: AnswerOptions
    items: list[Input | ServiceError]
    encodings: list[tuple[Encoding, ...]] = field(default_factory=list)


@dataclass(slots=True)
class PreparedRequest:
    """A request that can be run. `single_task`: its path names its only task. `token_cache`: None if tokens are used once.

    `rows`: rows of all parts with their task ids, in the order of the logits that `RequestPreparer.render` expects.
    `num_tokens`: their total. `max_answer_bytes`: the most that the response may have, but for a frame.
    """

    parts: list[TaskPart]
    single_task: bool
    num_inputs: int
    options: Options
    token_cache: TokenCache | None
    rows: list[tuple[int, Encoding]]
    num_tokens: int
    max_answer_bytes: int

    @property
    def tasks(self) -> list[str]:
        """The names of its tasks."""
        return [part.task.name for part in self.parts]


class RequestPreparer:
    """Turns bodies into prepared requests, and their logits into responses. Thread-safe.

    `revision`: name and version of the checkpoint. `predictions`: counts every answer.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        encoder: InputEncoder,
        settings: Settings,
        revision: str,
        predictions: PredictionMetrics | None = None,
    ) -> None:
        self.tasks = {task.name: task for task in tasks}
        self.ids = {task.name: task_id for task_id, task in enumerate(tasks)}
        self._encoder = encoder
        self._settings = settings
        # A request larger than its queue would never be accepted, so it is refused as too large.
        self._max_tokens = {
            task: min(settings.max_waiting_tokens, policy.max_waiting_tokens or settings.max_waiting_tokens)
            for task, policy in settings.policies.items()
        }
        self._revision = revision
        self._predictions = predictions

    def prepare(self, task: str | None, body: bytes, check: Check = go_on) -> PreparedRequest:
        """Parses and encodes a body. `task`: None if the body names its tasks. `check`: its error ends the work.

        Raises UnknownTask, InvalidInput or TooManyInputs.
        """
        limits = {"max_inputs": self._settings.max_inputs, "max_candidates": self._settings.max_candidates}
        if task is None:
            names, parsed = parse_for_tasks(self.tasks, body, **limits)
        else:
            names, parsed = [task], parse(self.tasks[task], body, **limits)
        tasks, options = [self.tasks[name] for name in names], parsed.options or _DEFAULT_OPTIONS
        parts = [
            TaskPart(self.ids[each.name], each, chosen, list(parsed.items))
            for each, chosen in zip(tasks, answer_options(parsed.options, tasks), strict=True)
        ]
        reused = len(parts) > 1 or options.return_tokens
        token_cache = TokenCache(max(task.max_length for task in tasks)) if reused else None
        num_tokens, answer_bytes = 0, 0
        for part in parts:
            room = self._settings.max_waiting_tokens - num_tokens
            its_tokens = self._encode(part, options.truncation or Truncation.LONGEST_FIRST, token_cache, room, check)
            if options.truncation is Truncation.ERROR and not parsed.per_item:
                _require_none_refused(part)
            size = RequestSize(len(part.items), sum(map(len, part.encodings)), its_tokens, len(body))
            answer_bytes += max_answers_bytes(part.task, size, options.top_k, read=bool(options.return_tokens))
            num_tokens += its_tokens
        if answer_bytes > self._settings.max_answer_bytes:
            raise AnswersTooLarge(answer_bytes, self._settings.max_answer_bytes, _how_to_ask_for_less(tasks, options))
        rows = [(part.task_id, row) for part in parts for encodings in part.encodings for row in encodings]
        return PreparedRequest(
            parts, task is not None, len(parsed.items), options, token_cache, rows, num_tokens, answer_bytes
        )

    def render(self, request: PreparedRequest, logits: Sequence[Logits], check: Check = go_on) -> bytes:
        """The response as JSON. `logits`: of the request's rows, in their order. `check`: its error ends the work."""
        usage, remaining = Usage(request.num_inputs, len(request.rows), request.num_tokens), iter(logits)
        by_task = {part.task.name: self._answers(request, part, remaining, check) for part in request.parts}
        if request.single_task:
            ((name, answers),) = by_task.items()
            return encode_response(PredictResponse(name, self._revision, answers, usage))
        results = {name: TaskAnswers(answers) for name, answers in by_task.items()}
        return encode_response(TasksResponse(self._revision, results, usage))

    def example(self, golden: Golden) -> dict[str, Any]:
        """The response to a golden input, as JSON values."""
        ((*rows,),) = self._encoder.encode(self.tasks[golden.task], [golden.input])
        answer = {**golden.answer, **token_counts(rows)}
        usage = Usage(1, len(rows), answer["tokens"])
        return asdict(PredictResponse(golden.task, self._revision, [answer], usage))

    def _encode(
        self, part: TaskPart, truncation: Truncation, token_cache: TokenCache | None, room: int, check: Check
    ) -> int:
        """Encodes a part. Returns its number of tokens. Raises TooManyInputs if they exceed `room` or the task's queue."""
        num_tokens, limit = 0, min(room, self._max_tokens.get(part.task.name, room))
        for start in range(0, len(part.items), _INPUTS_ENCODED_AT_ONCE):
            indices = range(start, min(start + _INPUTS_ENCODED_AT_ONCE, len(part.items)))
            inputs = [item for index in indices if isinstance(item := part.items[index], Input)]
            check()
            limits = EncodingLimits(check, max_tokens=limit - num_tokens)
            try:
                encoded = iter(self._encoder.encode(part.task, inputs, truncation, token_cache, limits))
            except TooManyTokens:
                number = f"more than {limit}"
                raise TooManyInputs("inputs", number, limit, f"tokens in the first {indices.stop}") from None
            for index in indices:
                rows = next(encoded) if isinstance(part.items[index], Input) else ()
                if truncation is Truncation.ERROR and any(row.dropped_tokens for row in rows):
                    part.items[index] = _too_long(part.task, index, rows)
                    rows = ()
                part.encodings.append(rows)
                num_tokens += sum(map(len, rows))
            if num_tokens > limit:
                raise TooManyInputs("inputs", num_tokens, limit, f"tokens in the first {len(part.encodings)}")
        return num_tokens

    def _answers(
        self, request: PreparedRequest, part: TaskPart, logits: Iterator[Logits], check: Check
    ) -> list[AnswerJson]:
        answers = []
        for item, rows in zip(part.items, part.encodings, strict=True):
            check()
            if isinstance(item, ServiceError):
                answers.append(error_json(item))
            else:
                answers.append(self._answer(request, part, item, rows, [next(logits) for _ in rows]))
        return answers

    def _answer(
        self, request: PreparedRequest, part: TaskPart, item: Input, rows: tuple[Encoding, ...], logits: list[Logits]
    ) -> AnswerJson:
        decoded = answer(part.task, item, rows, logits, part.options)
        if self._predictions is not None:
            self._predictions.observe(part.task, decoded, raw_scores=part.options.raw_scores)
        as_json = answer_json(decoded, rows)
        if request.options.return_tokens:
            assert request.token_cache is not None
            as_json["read"] = [
                token_json(part.task, item, tokens)
                for tokens in self._encoder.tokens(part.task, item, rows, request.token_cache)
            ]
        return as_json


def _how_to_ask_for_less(tasks: Sequence[Task], options: Options) -> str:
    ways = ["send fewer inputs or shorter texts"]
    if options.return_tokens:
        ways.append("do without 'return_tokens'")
    if options.top_k is None and any(task.kind in LABELLED_KINDS - {Kind.TAGGING} for task in tasks):
        ways.append("ask for the likeliest scores only ('top_k')")
    return ", or ".join(ways)


def _too_long(task: Task, index: int, rows: Sequence[Encoding]) -> InvalidInput:
    """The error for an input that would have to be truncated."""
    longest = max(len(row) + row.dropped_tokens for row in rows)
    message = (
        f"has {longest} tokens{' in a row' if len(rows) > 1 else ''}, the limit of {task.name!r} is {task.max_length}; "
        "send less of it, or have it truncated ('truncation': 'longest_first', 'left' or 'window')"
    )
    return InvalidInput([FieldError(f"inputs[{index}]", message)])


def _require_none_refused(part: TaskPart) -> None:
    errors = [error for item in part.items if isinstance(item, ServiceError) for error in item.errors]
    if errors:
        raise InvalidInput(errors)
