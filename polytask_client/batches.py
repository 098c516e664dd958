"""A stream of inputs as batches: how they are cut, and what becomes of one that the service refuses."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from polytask_client.answers import Answer, Failed
from polytask_client.call_protocol import Steps
from polytask_client.calls import Calls
from polytask_client.errors import InvalidInput, ModelChanged, TooLarge
from polytask_client.messages import Input, refuse_single


@dataclass(frozen=True, slots=True)
class Stream:
    """What holds for all batches of a stream.

    `concurrency`: how many batches are asked for at once, and so at most in memory. `keep_failed`: an input that is
    refused becomes a `Failed` in its place, and ends nothing. `model`: whose answers are expected, as in `demo/1`; None
    for any. Raises ValueError.
    """

    task: str
    batch_size: int
    concurrency: int
    options: Mapping[str, Any] | None
    keep_failed: bool
    model: str | None

    def __post_init__(self) -> None:
        for name in ("batch_size", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def answers(self, calls: Calls, inputs: Sequence[Input | Failed]) -> Steps[list[Answer]]:
        """The answers to one batch, in order. What is too large for one request is divided.

        With `keep_failed` the inputs to blame for a refusal are asked about alone, so that what is said about one does not
        depend on its batch mates.
        """
        found: dict[int, Answer] = {place: item for place, item in enumerate(inputs) if isinstance(item, Failed)}
        pieces = [[place for place in range(len(inputs)) if place not in found]]
        while pieces:
            places = pieces.pop()
            asked = [item for place in places if not isinstance(item := inputs[place], Failed)]
            if not asked:
                continue
            try:
                prediction = yield from calls.predict(self.task, asked, self.options, None)
            except (InvalidInput, TooLarge) as error:
                smaller = self._divided(places, error)
                if smaller:
                    pieces += smaller
                elif self.keep_failed and _is_about_inputs(error):
                    # What is said of an input is the same whenever it is asked about.
                    found[places[0]] = Failed.of(replace(error.problem, request_id=None))
                else:
                    raise
                continue
            if self.model is not None and prediction.model != self.model:
                raise ModelChanged(f"expected answers of {self.model}, but the service has {prediction.model} now")
            found |= zip(places, prediction.answers, strict=True)
        return [found[place] for place in range(len(inputs))]

    def _divided(self, places: list[int], error: InvalidInput | TooLarge) -> list[list[int]]:
        """What to send instead of these inputs; nothing where that does not help."""
        if len(places) == 1:
            return []
        if blamed := _blamed(error, len(places)):
            rest = [place for index, place in enumerate(places) if index not in blamed]
            return [rest, *([places[index]] for index in sorted(blamed))] if self.keep_failed else []
        middle = len(places) // 2
        return [places[:middle], places[middle:]] if isinstance(error, TooLarge) else []


def _blamed(error: InvalidInput | TooLarge, num_inputs: int) -> set[int]:
    """The indices of the inputs that the service names."""
    named = (re.match(r"inputs\[(\d+)\]", wrong.field) for wrong in error.problem.errors)
    return {index for match in named if match and (index := int(match[1])) < num_inputs}


def _is_about_inputs(error: InvalidInput | TooLarge) -> bool:
    return isinstance(error, TooLarge) or bool(_blamed(error, 1))


_Item = TypeVar("_Item")


def batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """The items in lists of `size`, the last of which may be shorter. No item is taken before its batch is asked for.

    Raises TypeError for what is one input and not several.
    """
    refuse_single(items)
    source = iter(items)
    while batch := list(itertools.islice(source, size)):
        yield batch


async def async_batches(items: Iterable[_Item] | AsyncIterable[_Item], size: int) -> AsyncIterator[list[_Item]]:
    """As `batches`, of either kind of iterable."""
    if isinstance(items, Iterable):
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
