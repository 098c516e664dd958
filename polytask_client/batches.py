"""Batches of a stream of inputs: how they are formed, and how a refused one is divided."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from polytask_client.answers import Answer, Failed
from polytask_client.call_protocol import CallSteps
from polytask_client.calls import Calls
from polytask_client.errors import InvalidArgument, InvalidInput, ModelChanged, TooLarge
from polytask_client.messages import Input, require_several


@dataclass(frozen=True, slots=True)
class Stream:
    """Settings of all batches of a stream.

    `concurrency`: largest number of batches requested at once, and so in memory. `keep_failed`: a refused input becomes
    a `Failed` in its place and does not end the stream. `model`: the model that must answer, such as `demo/1`; None for
    any. Raises InvalidArgument.
    """

    task: str
    batch_size: int
    concurrency: int
    options: Mapping[str, Any] | None
    keep_failed: bool
    model: str | None

    def __post_init__(self) -> None:
        for name in ("batch_size", "concurrency"):
            number = getattr(self, name)
            if not isinstance(number, int) or number < 1:
                raise InvalidArgument(f"{name} must be at least 1, got {number!r}")

    def answers(self, calls: Calls, inputs: Sequence[Input | Failed]) -> CallSteps[list[Answer]]:
        """The answers to one batch, in order. A batch that is too large for one request is divided.

        With `keep_failed` each input that a refusal names is sent again alone, so that its problem does not depend on
        the rest of its batch.
        """
        answers: dict[int, Answer] = {index: item for index, item in enumerate(inputs) if isinstance(item, Failed)}
        batches_left = [[index for index in range(len(inputs)) if index not in answers]]
        while batches_left:
            indices = batches_left.pop()
            pending = [item for index in indices if not isinstance(item := inputs[index], Failed)]
            if not pending:
                continue
            try:
                prediction = yield from calls.predict(self.task, pending, self.options, None)
            except (InvalidInput, TooLarge) as error:
                smaller = self._split(indices, error)
                if smaller:
                    batches_left += smaller
                elif self.keep_failed and _is_about_inputs(error):
                    # Without the request's id, so that the output is the same in every run.
                    answers[indices[0]] = Failed.of(replace(error.problem, request_id=None))
                else:
                    raise
                continue
            if self.model is not None and prediction.model != self.model:
                raise ModelChanged(f"expected answers of {self.model}, but the service has {prediction.model} now")
            answers |= zip(indices, prediction.answers, strict=True)
        return [answers[index] for index in range(len(inputs))]

    def _split(self, indices: list[int], error: InvalidInput | TooLarge) -> list[list[int]]:
        """The batches to send instead of this one; empty if dividing does not help."""
        if len(indices) == 1:
            return []
        if blamed := _blamed_positions(error, len(indices)):
            others = [index for position, index in enumerate(indices) if position not in blamed]
            return [others, *([indices[position]] for position in sorted(blamed))] if self.keep_failed else []
        middle = len(indices) // 2
        return [indices[:middle], indices[middle:]] if isinstance(error, TooLarge) else []


def _blamed_positions(error: InvalidInput | TooLarge, num_inputs: int) -> set[int]:
    """The positions in the request of the inputs that the service names."""
    named = (re.match(r"inputs\[(\d+)\]", wrong.field) for wrong in error.problem.errors)
    return {position for match in named if match and (position := int(match[1])) < num_inputs}


def _is_about_inputs(error: InvalidInput | TooLarge) -> bool:
    return isinstance(error, TooLarge) or bool(_blamed_positions(error, 1))


_Item = TypeVar("_Item")


def batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """The items in lists of `size`; the last one may be shorter. Items are read only when their batch is requested.

    Raises InvalidArgument for a single input instead of several. What `items` raises is the caller's own, and is not changed.
    """
    require_several(items)
    source = iter(items)
    while batch := list(itertools.islice(source, size)):
        yield batch


async def async_batches(items: Iterable[_Item] | AsyncIterable[_Item], size: int) -> AsyncIterator[list[_Item]]:
    """As `batches`, for either kind of iterable."""
    if not isinstance(items, AsyncIterable):
        for batch in batches(items, size):
            yield batch
        return
    batch = []
    async for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
