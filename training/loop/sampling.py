"""Sampling: batches of similar length that mix tasks, drawn by the tasks' shares or by MT-Uncertainty.

MT-Uncertainty: Pilault et al., ICLR 2021. Its amortised form is ours.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from polytask.training.data.examples import EncodedExample
from polytask.training.loop.length import planned_examples
from polytask.training.loop.shares import bounded_shares, task_shares, uncertainty_shares
from polytask.training.loop.uncertainty import Entropy, select_examples
from polytask.training.recipes.schema import LengthConfig, SamplerConfig, SamplerName

ExampleRef = tuple[int, int]
"""A training example: its task's id and its index among the task's examples."""

EntropyFunction = Callable[[Sequence[EncodedExample]], list[Entropy]]
"""Returns the network's entropy on each of the examples."""

_WINDOW_BATCHES = 50
_NUM_RECENT = 256


class ShuffledExamples:
    """An endless supply of examples. Each task's examples are shuffled again whenever all were drawn."""

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        """`sizes[t]`: number of examples of task t. Raises ValueError if it is 0."""
        for task_id, size in enumerate(sizes):
            if not size:
                raise ValueError(f"task {task_id} has no training examples that fit its max_length")
        self.random = random.Random(seed)  # noqa: S311 - sampling, not cryptography
        self._sizes = sizes
        self._waiting: list[list[int]] = [[] for _ in sizes]

    def draw(self, count: int, shares: Sequence[float]) -> list[ExampleRef]:
        """The next `count` examples, each of a task that is drawn with the probability of its share."""
        return [self._next(task_id) for task_id in self.random.choices(range(len(self._sizes)), shares, k=count)]

    def draw_each(self, count: int) -> list[ExampleRef]:
        """The next `count` examples of every task, in random order."""
        drawn = [self._next(task_id) for task_id in range(len(self._sizes)) for _ in range(count)]
        self.random.shuffle(drawn)
        return drawn

    def state(self) -> dict[str, Any]:
        """Everything that the next draws depend on, as JSON values."""
        version, numbers, gauss = self.random.getstate()
        return {"random": [version, list(numbers), gauss], "waiting": _copy_lists(self._waiting)}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores a `state`."""
        version, numbers, gauss = state["random"]
        self.random.setstate((version, tuple(numbers), gauss))
        self._waiting = _copy_lists(state["waiting"])

    def _next(self, task_id: int) -> ExampleRef:
        waiting = self._waiting[task_id]
        if not waiting:
            waiting.extend(self.random.sample(range(self._sizes[task_id]), self._sizes[task_id]))
        return task_id, waiting.pop()


class EntropyCache:
    """Estimates of each example's entropy without running the network.

    The estimate is the entropy when the example was last seen, shifted by the change of its task's mean since then. For
    an example not seen yet it is a random one of its task's last 256 entropies, so that tasks are chosen as if all were
    scored. Mean and last 256 are of typical examples only, because those trained on were chosen for being above them.
    """

    def __init__(self, num_tasks: int, generator: random.Random) -> None:
        self._random = generator
        self._cached: dict[ExampleRef, tuple[float, float]] = {}
        self._recent: list[list[float]] = [[] for _ in range(num_tasks)]
        self._without_entropy: set[int] = set()

    def stale(self, refs: Sequence[ExampleRef], count: int) -> list[ExampleRef]:
        """The `count` examples to score next: first those never seen, then any others, in order.

        Each appears once, and none is of a task that has no entropies (regression).
        """
        candidates = [ref for ref in dict.fromkeys(refs) if ref[0] not in self._without_entropy]
        return sorted(candidates, key=self._cached.__contains__)[:count]

    def update(self, refs: Sequence[ExampleRef], entropies: Sequence[Entropy], *, typical: bool) -> None:
        """Stores the entropies of examples. `typical`: the examples were not chosen by their entropy."""
        for (task_id, _), entropy in zip(refs, entropies, strict=True):
            recent = self._recent[task_id]
            if entropy is None:
                self._without_entropy.add(task_id)
            elif typical or not recent:
                recent.append(entropy)
                del recent[:-_NUM_RECENT]
        for ref, entropy in zip(refs, entropies, strict=True):
            if entropy is not None:
                self._cached[ref] = (entropy, self._mean(ref[0]))

    def estimate(self, ref: ExampleRef) -> Entropy:
        """The expected entropy of an example; None while its task has no entropies."""
        recent = self._recent[ref[0]]
        if ref in self._cached:
            entropy, mean = self._cached[ref]
            return min(1.0, max(0.0, entropy + (self._mean(ref[0]) - mean)))
        return self._random.choice(recent) if recent else None

    def mean(self, task_id: int) -> Entropy:
        """The mean entropy of the task's last 256 typical examples; None while it has none."""
        return self._mean(task_id) if self._recent[task_id] else None

    def state(self) -> dict[str, Any]:
        """All entropies, as JSON values."""
        return {
            "kept": [[*ref, *kept] for ref, kept in self._cached.items()],
            "recent": _copy_lists(self._recent),
            "without": sorted(self._without_entropy),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restores a `state`."""
        self._cached = {(task_id, index): (entropy, mean) for task_id, index, entropy, mean in state["kept"]}
        self._recent = _copy_lists(state["recent"])
        self._without_entropy = set(state["without"])

    def _mean(self, task_id: int) -> float:
        recent = self._recent[task_id]
        return sum(recent) / len(recent)


class BatchSampler:
    """An endless supply of training batches, with a state from which it can be resumed exactly.

    By task share, with a floor under each and a cap over it: a window of examples is drawn, sorted by length and cut into batches, which are
    shuffled. So a batch holds examples of similar length of any tasks. Task-uncertainty: by task share as well, and the shares follow the
    mean entropies seen in training; a task's examples come in random order. MT-Uncertainty: `horizon` times b candidates
    of every task are drawn (b: `batch_rows`), the number that fits into `horizon` batches is selected from all of them,
    and the rest are dropped. Exact: the network scores every candidate first. Amortised: scores come from `EntropyCache`,
    of which `refresh` times b per batch are renewed, and at no cost those of the examples trained on.
    """

    def __init__(
        self,
        examples: Sequence[Sequence[EncodedExample]],
        config: SamplerConfig,
        length: LengthConfig,
        seed: int,
        score: EntropyFunction,
    ) -> None:
        """`examples[t]` are the training examples of task t. Raises ValueError if a task has none."""
        self._examples, self._config, self._length, self._score = examples, config, length, score
        self._sizes = [len(task_examples) for task_examples in examples]
        self.num_draws = planned_examples(self._sizes, config, length)
        """Number of examples that the run will draw, as far as known; floors and caps of tasks are parts of it."""
        self._draws = ShuffledExamples(self._sizes, seed)
        self._next_batches: list[list[ExampleRef]] = []
        self._current: list[ExampleRef] = []
        self._selects_examples = config.name is SamplerName.MT_UNCERTAINTY
        self._adapts_shares = config.name is SamplerName.TASK_UNCERTAINTY
        self._entropies = EntropyCache(len(examples), self._draws.random)

    @property
    def needs_entropies(self) -> bool:
        """Whether `observe` must be called with the entropies of each batch."""
        return self._adapts_shares or (self._selects_examples and self._config.amortised)

    def next(self, progress: float) -> list[EncodedExample]:
        """The next batch. `progress`: the finished part of the run, 0 to 1."""
        if not self._next_batches:
            refs = self._select_examples() if self._selects_examples else self._draw(progress)
            self._next_batches = batch_by_length(
                refs, self._example, self._length.batch_rows, self._length.batch_tokens
            )
            self._draws.random.shuffle(self._next_batches)
        self._current = self._next_batches.pop()
        return [self._example(ref) for ref in self._current]

    def observe(self, batch: Sequence[EncodedExample], entropies: Sequence[Entropy]) -> None:
        """Stores the entropies of the last batch of `next`, as computed while it was trained on."""
        assert len(batch) == len(self._current)
        self._entropies.update(self._current, entropies, typical=self._adapts_shares)

    def state(self) -> dict[str, Any]:
        """Everything that the next batches depend on, as JSON values."""
        return {
            "draws": self._draws.state(),
            "ahead": _copy_lists(self._next_batches),
            "current": list(self._current),
            "kept": self._entropies.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restores a `state`."""
        self._draws.restore(state["draws"])
        # JSON has no tuples.
        self._next_batches = [[(task_id, index) for task_id, index in batch] for batch in state["ahead"]]
        self._current = [(task_id, index) for task_id, index in state["current"]]
        self._entropies.restore(state["kept"])

    def _example(self, ref: ExampleRef) -> EncodedExample:
        return self._examples[ref[0]][ref[1]]

    def _draw(self, progress: float) -> list[ExampleRef]:
        shares = task_shares(self._sizes, self._config, progress)
        if self._adapts_shares:
            shares = uncertainty_shares(shares, [self._entropies.mean(task_id) for task_id in range(len(self._sizes))])
        shares = bounded_shares(shares, self._sizes, self._config, self.num_draws)
        return self._draws.draw(self._length.batch_rows * _WINDOW_BATCHES, shares)

    def _select_examples(self) -> list[ExampleRef]:
        count = self._length.batch_rows * self._config.horizon
        candidates = self._draws.draw_each(count)
        entropies = (
            self._estimated_entropies(candidates) if self._config.amortised else self._exact_entropies(candidates)
        )
        tasks = [task_id for task_id, _ in candidates]
        chosen = select_examples(tasks, entropies, count, self._config.form, self._config.regression)
        return [candidates[index] for index in chosen]

    def _exact_entropies(self, refs: Sequence[ExampleRef]) -> list[Entropy]:
        return self._score([self._example(ref) for ref in refs])

    def _estimated_entropies(self, candidates: Sequence[ExampleRef]) -> list[Entropy]:
        budget = int(self._config.refresh * self._length.batch_rows * self._config.horizon)
        stale = self._entropies.stale(candidates, budget)
        self._entropies.update(stale, self._exact_entropies(stale), typical=True)
        return [self._entropies.estimate(ref) for ref in candidates]


def batch_by_length(
    refs: Sequence[ExampleRef], example: Callable[[ExampleRef], EncodedExample], max_rows: int, max_tokens: int
) -> list[list[ExampleRef]]:
    """The examples sorted by length and cut into batches of at most `max_rows` rows and `max_tokens` padded tokens.

    An example that exceeds a limit is a batch by itself. Examples of equal length keep their order, so they stay mixed.
    """
    batches: list[list[ExampleRef]] = []
    rows = 0
    for ref in sorted(refs, key=lambda ref: example(ref).longest):
        current = example(ref)
        rows += len(current.encodings)
        if not batches or rows > max_rows or rows * current.longest > max_tokens:
            batches.append([])
            rows = len(current.encodings)
        batches[-1].append(ref)
    return batches


def _copy_lists(lists: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """A copy, because a state must not change when training continues."""
    return [list(values) for values in lists]
