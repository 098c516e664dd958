"""Which examples come next: samplers over tasks, and batches of similar length that mix tasks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from training.config import LengthConfig, SamplerConfig, SamplerName
from training.examples import EncodedExample

Item = TypeVar("Item")

Score = Callable[[Sequence[EncodedExample]], list[float]]
"""How much each example has to teach: the highest are trained on."""

_WINDOW_BATCHES = 50


def task_shares(sizes: Sequence[int], config: SamplerConfig) -> list[float]:
    """The probability of each task, given its number of examples.

    Proportional: n_t / sum. Temperature (tau): min(n_t, cap) ** (1 / tau), normalised.
    """
    if config.name is SamplerName.TEMPERATURE:
        weights = [min(size, config.cap) ** (1 / config.temperature) for size in sizes]
    else:
        weights = [float(size) for size in sizes]
    return [weight / sum(weights) for weight in weights]


class Sampler:
    """Draws examples without end, each task's in a fresh random order every time it is used up."""

    def __init__(self, examples: Sequence[Sequence[EncodedExample]], config: SamplerConfig, seed: int) -> None:
        """`examples[t]` are the training examples of task t. Raises ValueError if a task has none."""
        for task_id, own in enumerate(examples):
            if not own:
                raise ValueError(f"task {task_id} has no training examples that fit its max_length")
        self._random = random.Random(seed)  # noqa: S311 - sampling, not cryptography
        self._examples = examples
        self._shares = task_shares([len(own) for own in examples], config)
        self._waiting: list[list[EncodedExample]] = [[] for _ in examples]

    def draw(self, count: int) -> list[EncodedExample]:
        """The next `count` examples, each of a task drawn by its share."""
        tasks = self._random.choices(range(len(self._examples)), self._shares, k=count)
        return [self._next(task_id) for task_id in tasks]

    def draw_each(self, count: int) -> list[EncodedExample]:
        """The next `count` examples of every task."""
        return [self._next(task_id) for task_id in range(len(self._examples)) for _ in range(count)]

    def shuffle(self, items: Sequence[Item]) -> list[Item]:
        """The items in random order."""
        return self._random.sample(items, len(items))

    def _next(self, task_id: int) -> EncodedExample:
        waiting = self._waiting[task_id]
        if not waiting:
            waiting.extend(self._random.sample(self._examples[task_id], len(self._examples[task_id])))
        return waiting.pop()


def cut_by_length(examples: Sequence[EncodedExample], max_rows: int, max_tokens: int) -> list[list[EncodedExample]]:
    """The examples sorted by length and cut into batches of at most `max_rows` rows and `max_tokens` padded tokens.

    An example that alone is over a limit is a batch by itself.
    """
    batches: list[list[EncodedExample]] = []
    rows = 0
    for example in sorted(examples, key=lambda e: e.longest):
        rows += len(example.encodings)
        if not batches or rows > max_rows or rows * example.longest > max_tokens:
            batches.append([])
            rows = len(example.encodings)
        batches[-1].append(example)
    return batches


def training_batches(
    sampler: Sampler, config: SamplerConfig, length: LengthConfig, score: Score
) -> Iterator[list[EncodedExample]]:
    """Batches without end. `score` is called by MT-Uncertainty only.

    Proportional and temperature: a window of examples is drawn by task share, sorted by length and cut, and its
    batches are shuffled; so a batch holds similar lengths of any tasks. MT-Uncertainty: b candidates of every task
    are scored, the b highest make one batch and the rest are dropped (b: `batch_rows`);
    which of equal scores come first is random.
    """
    while True:
        if config.name is SamplerName.MT_UNCERTAINTY:
            # Shuffled, so that equal scores prefer no task.
            candidates = sampler.shuffle(sampler.draw_each(length.batch_rows))
            scores = score(candidates)
            best = sorted(range(len(candidates)), key=lambda i: -scores[i])[: length.batch_rows]
            yield from cut_by_length([candidates[i] for i in best], length.batch_rows, length.batch_tokens)
        else:
            window = sampler.draw(length.batch_rows * _WINDOW_BATCHES)
            yield from sampler.shuffle(cut_by_length(window, length.batch_rows, length.batch_tokens))
