"""What a request wants, from its body to rows and from their logits to its response. Knows no clock and no line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from polytask.model.answers import AnswerOptions, Logits, answer
from polytask.model.encoding import Encoding, Input, InputEncoder, TokenCache
from polytask.model.tasks import Task
from polytask.model.truncation import Truncation
from polytask.model_store.manifest import Golden
from polytask.service.api.options import Options, answer_options
from polytask.service.api.parsing import parse, parse_for_tasks
from polytask.service.api.responses import (
    AnswerJson,
    PredictResponse,
    TaskAnswers,
    TasksResponse,
    Usage,
    answer_json,
    error_json,
    rendered,
    token_counts,
    token_json,
)
from polytask.service.config.settings import Settings
from polytask.service.errors import FieldError, InvalidInput, ServiceError, TooManyInputs
from polytask.service.observability.prediction_metrics import PredictionMetrics

_INPUTS_ENCODED_AT_ONCE = 16
"""Inputs that are tokenised before the limit on tokens is looked at again: a request costs little more than it may."""

_USUAL = Options()


@dataclass(slots=True)
class TaskPart:
    """What one task has to do with a request. `encodings`: the rows of each item; of one that is refused none."""

    task_id: int
    task: Task
    options: AnswerOptions
    items: list[Input | ServiceError]
    encodings: list[tuple[Encoding, ...]] = field(default_factory=list)


@dataclass(slots=True)
class PreparedRequest:
    """A request that can be run. `alone`: it came to the path of its only task. `pieces`: None where nobody keeps any.

    `rows`: of all shares with their task ids, in the order in which `RequestPreparer.render` wants their logits; they have
    `num_tokens` together.
    """

    shares: list[TaskPart]
    alone: bool
    num_inputs: int
    options: Options
    pieces: TokenCache | None
    rows: list[tuple[int, Encoding]]
    num_tokens: int

    @property
    def tasks(self) -> list[str]:
        """The names of its tasks."""
        return [share.task.name for share in self.shares]


class RequestPreparer:
    """Makes jobs of request bodies, and responses of their logits. Safe to share between threads.

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
        # What no line would ever have room for is refused as too large.
        self._most_tokens = {
            task: min(settings.max_waiting_tokens, policy.max_waiting_tokens or settings.max_waiting_tokens)
            for task, policy in settings.policies.items()
        }
        self._revision = revision
        self._predictions = predictions

    def prepare(self, task: str | None, body: bytes) -> PreparedRequest:
        """The job of a body that came to the path of `task`, or that itself says which tasks it is for.

        Raises UnknownTask, InvalidInput or TooManyInputs.
        """
        most = {"max_inputs": self._settings.max_inputs, "max_candidates": self._settings.max_candidates}
        if task is None:
            names, parsed = parse_for_tasks(self.tasks, body, **most)
        else:
            names, parsed = [task], parse(self.tasks[task], body, **most)
        tasks, options = [self.tasks[name] for name in names], parsed.options or _USUAL
        chosen = answer_options(parsed.options, tasks)
        shares = [
            TaskPart(self.ids[own.name], own, own_options, parsed.items if task else list(parsed.items))
            for own, own_options in zip(tasks, chosen, strict=True)
        ]
        pieces: TokenCache | None = {} if len(shares) > 1 or options.return_tokens else None
        most_tokens = left = self._settings.max_waiting_tokens
        for share in shares:
            left -= self._encode(share, options.truncation or Truncation.LONGEST_FIRST, pieces, left)
            if options.truncation is Truncation.ERROR and not parsed.per_item:
                _require_none_refused(share)
        rows = [(share.task_id, row) for share in shares for encodings in share.encodings for row in encodings]
        return PreparedRequest(shares, task is not None, len(parsed.items), options, pieces, rows, most_tokens - left)

    def render(self, job: PreparedRequest, logits: Sequence[Logits]) -> bytes:
        """The response to a job whose rows have these logits."""
        usage, remaining = Usage(job.num_inputs, len(job.rows), job.num_tokens), iter(logits)
        answers = {share.task.name: self._answers(job, share, remaining) for share in job.shares}
        if job.alone:
            ((name, own),) = answers.items()
            return rendered(PredictResponse(name, self._revision, own, usage))
        results = {name: TaskAnswers(own) for name, own in answers.items()}
        return rendered(TasksResponse(self._revision, results, usage))

    def example(self, golden: Golden) -> dict[str, Any]:
        """The response to an input whose answer is known, as JSON values."""
        ((*rows,),) = self._encoder.encode(self.tasks[golden.task], [golden.input])
        answer = {**golden.answer, **token_counts(rows)}
        usage = Usage(1, len(rows), answer["tokens"])
        return asdict(PredictResponse(golden.task, self._revision, [answer], usage))

    def _encode(self, share: TaskPart, truncation: Truncation, pieces: TokenCache | None, left: int) -> int:
        """Makes the rows of a share; returns how many tokens they have. Raises TooManyInputs where these are too many."""
        num_tokens, most = 0, min(left, self._most_tokens.get(share.task.name, left))
        for start in range(0, len(share.items), _INPUTS_ENCODED_AT_ONCE):
            places = range(start, min(start + _INPUTS_ENCODED_AT_ONCE, len(share.items)))
            inputs = [item for place in places if isinstance(item := share.items[place], Input)]
            encoded = iter(self._encoder.encode(share.task, inputs, truncation, pieces))
            for place in places:
                rows = next(encoded) if isinstance(share.items[place], Input) else ()
                if truncation is Truncation.ERROR and any(row.dropped_tokens for row in rows):
                    share.items[place] = _too_long(share.task, place, rows)
                    rows = ()
                share.encodings.append(rows)
                num_tokens += sum(map(len, rows))
            if num_tokens > most:
                raise TooManyInputs("inputs", num_tokens, most, f"tokens in the first {len(share.encodings)}")
        return num_tokens

    def _answers(self, job: PreparedRequest, share: TaskPart, logits: Iterator[Logits]) -> list[AnswerJson]:
        return [
            error_json(item)
            if isinstance(item, ServiceError)
            else self._answer(job, share, item, rows, [next(logits) for _ in rows])
            for item, rows in zip(share.items, share.encodings, strict=True)
        ]

    def _answer(
        self, job: PreparedRequest, share: TaskPart, item: Input, rows: tuple[Encoding, ...], logits: list[Logits]
    ) -> AnswerJson:
        answered = answer(share.task, item, rows, logits, share.options)
        if self._predictions is not None:
            self._predictions.observe(share.task, answered, raw_scores=share.options.raw_scores)
        found = answer_json(answered, rows)
        if job.options.return_tokens:
            assert job.pieces is not None
            found["read"] = [
                token_json(share.task, item, self._encoder.tokens(share.task, item, row, job.pieces)) for row in rows
            ]
        return found


def _too_long(task: Task, place: int, rows: Sequence[Encoding]) -> InvalidInput:
    """The refusal of an input of which something would have to be cut off."""
    longest = max(len(row) + row.dropped_tokens for row in rows)
    message = (
        f"has {longest} tokens{' in a row' if len(rows) > 1 else ''}, the limit of {task.name!r} is {task.max_length}; "
        "send less of it, or have it truncated ('truncation': 'longest_first', 'left' or 'window')"
    )
    return InvalidInput([FieldError(f"inputs[{place}]", message)])


def _require_none_refused(share: TaskPart) -> None:
    errors = [error for item in share.items if isinstance(item, ServiceError) for error in item.errors]
    if errors:
        raise InvalidInput(errors)
