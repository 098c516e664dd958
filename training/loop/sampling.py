"""Which examples come next: task shares, MT-Uncertainty, and batches of similar length that mix tasks.

Sources: temperature and cap as in Hyperformer and jiant; annealed as in Stickland & Murray, "BERT and PALs", 2019;
MT-Uncertainty: Pilault et al., ICLR 2021. The amortised form of it and task-uncertainty are ours.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from polytask.training.data.examples import EncodedExample
from polytask.training.loop.uncertainty import Entropy, select_examples
from polytask.training.recipes.schema import LengthConfig, SamplerConfig, SamplerName

ExampleRef = tuple[int, int]
"""A training example: its task's id and its place among the task's examples."""

EntropyFunction = Callable[[Sequence[EncodedExample]], list[Entropy]]
"""The network's entropy on each of some examples."""

_WINDOW_BATCHES = 50
_NUM_RECENT = 256
_MIN_ENTROPY = 0.1
"""Of task-uncertainty: a task that the network is sure of is still looked at."""


def task_shares(sizes: Sequence[int], config: SamplerConfig, progress: float = 0.0) -> list[float]:
    """The probability of each task, given its number of examples and the run's progress, 0 to 1.

    Proportional: n_t / sum. Uniform: 1 / T. Temperature (tau): min(n_t, cap) ** (1 / tau), normalised. Annealed:
    n_t ** (1 - 0.8 * progress), normalised: from proportional towards uniform. Task-uncertainty starts from temperature.
    """
    match config.name:
        case SamplerName.UNIFORM:
            power = 0.0
        case SamplerName.TEMPERATURE | SamplerName.TASK_UNCERTAINTY:
            power = 1 / config.temperature
        case SamplerName.ANNEALED:
            power = 1 - 0.8 * progress
        case _:
            power = 1.0
    weights = [min(size, config.cap) ** power for size in sizes]
    return [weight / sum(weights) for weight in weights]


def uncertainty_shares(shares: Sequence[float], means: Sequence[Entropy]) -> list[float]:
    """The shares of the tasks times their mean entropies, normalised; a task without one (regression) keeps its share."""
    weights = [
        None if mean is None else share * max(mean, _MIN_ENTROPY) for share, mean in zip(shares, means, strict=True)
    ]
    known = sum(share for share, weight in zip(shares, weights, strict=True) if weight is not None)
    total = sum(weight for weight in weights if weight is not None)
    return [share if weight is None else weight / total * known for share, weight in zip(shares, weights, strict=True)]


class ShuffledExamples:
    """Examples without end, each task's in a fresh random order every time it is used up."""

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        """`sizes[t]`: how many examples task t has. Raises ValueError if it has none."""
        for task_id, size in enumerate(sizes):
            if not size:
                raise ValueError(f"task {task_id} has no training examples that fit its max_length")
        self.random = random.Random(seed)  # noqa: S311 - sampling, not cryptography
        self._sizes = sizes
        self._waiting: list[list[int]] = [[] for _ in sizes]

    def draw(self, count: int, shares: Sequence[float]) -> list[ExampleRef]:
        """The next `count` examples, each of a task drawn by its share."""
        return [self._next(task_id) for task_id in self.random.choices(range(len(self._sizes)), shares, k=count)]

    def draw_each(self, count: int) -> list[ExampleRef]:
        """The next `count` examples of every task, in random order."""
        drawn = [self._next(task_id) for task_id in range(len(self._sizes)) for _ in range(count)]
        self.random.shuffle(drawn)
        return drawn

    def state(self) -> dict[str, Any]:
        """All that the next draws depend on, as JSON values."""
        version, numbers, gauss = self.random.getstate()
        return {"random": [version, list(numbers), gauss], "waiting": _copied(self._waiting)}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        version, numbers, gauss = state["random"]
        self.random.setstate((version, tuple(numbers), gauss))
        self._waiting = _copied(state["waiting"])

    def _next(self, task_id: int) -> ExampleRef:
        waiting = self._waiting[task_id]
        if not waiting:
            waiting.extend(self.random.sample(range(self._sizes[task_id]), self._sizes[task_id]))
        return task_id, waiting.pop()


class EntropyCache:
    """What is known of each example's entropy without asking the network again.

    An example keeps the entropy it was last seen with, shifted by how far its task's mean has moved since. For one
    not seen yet stands a random one of its task's last 256, so that tasks are chosen from as if all were scored.
    Mean and last 256 are of typical examples: those trained on were chosen for being above them.
    """

    def __init__(self, num_tasks: int, generator: random.Random) -> None:
        self._random = generator
        self._kept: dict[ExampleRef, tuple[float, float]] = {}
        self._recent: list[list[float]] = [[] for _ in range(num_tasks)]
        self._without: set[int] = set()

    def stale(self, refs: Sequence[ExampleRef], count: int) -> list[ExampleRef]:
        """The `count` of some examples to ask the network about: those never seen, then any, in their order.

        Each at most once, and none of a task that turned out to have no entropies (regression).
        """
        able = [ref for ref in dict.fromkeys(refs) if ref[0] not in self._without]
        return sorted(able, key=self._kept.__contains__)[:count]

    def update(self, refs: Sequence[ExampleRef], entropies: Sequence[Entropy], *, typical: bool) -> None:
        """Takes in what the network said of some examples; `typical`: they were not picked for their entropy."""
        for (task_id, _), entropy in zip(refs, entropies, strict=True):
            recent = self._recent[task_id]
            if entropy is None:
                self._without.add(task_id)
            elif typical or not recent:
                recent.append(entropy)
                del recent[:-_NUM_RECENT]
        for ref, entropy in zip(refs, entropies, strict=True):
            if entropy is not None:
                self._kept[ref] = (entropy, self._mean(ref[0]))

    def estimate(self, ref: ExampleRef) -> Entropy:
        """The entropy to expect of an example; None while its task has none."""
        recent = self._recent[ref[0]]
        if ref in self._kept:
            entropy, mean = self._kept[ref]
            return min(1.0, max(0.0, entropy + (self._mean(ref[0]) - mean)))
        return self._random.choice(recent) if recent else None

    def mean(self, task_id: int) -> Entropy:
        """Of the task's last 256 typical examples; None while it has none."""
        return self._mean(task_id) if self._recent[task_id] else None

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "kept": [[*ref, *kept] for ref, kept in self._kept.items()],
            "recent": _copied(self._recent),
            "without": sorted(self._without),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self._kept = {(task_id, place): (entropy, mean) for task_id, place, entropy, mean in state["kept"]}
        self._recent = _copied(state["recent"])
        self._without = set(state["without"])

    def _mean(self, task_id: int) -> float:
        recent = self._recent[task_id]
        return sum(recent) / len(recent)


class BatchSampler:
    """Training batches without end, and a state from which they go on exactly.

    By task share: a window of examples is drawn, sorted by length and cut, and its batches are shuffled; so a batch
    holds similar lengths of any tasks. MT-Uncertainty: of every task `horizon` times b candidates are drawn (b:
    `batch_rows`), as many as `horizon` batches hold are chosen from all of them, and the rest are dropped. Exact: every
    candidate is scored by the network first. Amortised: by `EntropyCache`, of which `refresh` times b per batch are
    brought up to date, and those of the examples trained on, which cost nothing. Task-uncertainty: by task share, which
    follows the mean entropies that come up in training; which of a task's examples come next is left to chance.
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
        self._sizes = [len(own) for own in examples]
        self._draws = ShuffledExamples(self._sizes, seed)
        self._ahead: list[list[ExampleRef]] = []
        self._current: list[ExampleRef] = []
        self._selects_examples = config.name is SamplerName.MT_UNCERTAINTY
        self._adapts_shares = config.name is SamplerName.TASK_UNCERTAINTY
        self._kept = EntropyCache(len(examples), self._draws.random)

    @property
    def needs_entropies(self) -> bool:
        """Whether `observe` is of any use."""
        return self._adapts_shares or (self._selects_examples and self._config.amortised)

    def next(self, progress: float) -> list[EncodedExample]:
        """The next batch; `progress`: how much of the run is done, 0 to 1."""
        if not self._ahead:
            refs = self._select_examples() if self._selects_examples else self._draw(progress)
            self._ahead = batch_by_length(refs, self._example, self._length.batch_rows, self._length.batch_tokens)
            self._draws.random.shuffle(self._ahead)
        self._current = self._ahead.pop()
        return [self._example(ref) for ref in self._current]

    def observe(self, batch: Sequence[EncodedExample], entropies: Sequence[Entropy]) -> None:
        """Takes in the entropies of the batch that `next` gave last, as they came up in training on it."""
        assert len(batch) == len(self._current)
        self._kept.update(self._current, entropies, typical=self._adapts_shares)

    def state(self) -> dict[str, Any]:
        """All that the next batches depend on, as JSON values."""
        return {
            "draws": self._draws.state(),
            "ahead": _copied(self._ahead),
            "current": list(self._current),
            "kept": self._kept.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self._draws.restore(state["draws"])
        # JSON has no tuples.
        self._ahead = [[(task_id, place) for task_id, place in batch] for batch in state["ahead"]]
        self._current = [(task_id, place) for task_id, place in state["current"]]
        self._kept.restore(state["kept"])

    def _example(self, ref: ExampleRef) -> EncodedExample:
        return self._examples[ref[0]][ref[1]]

    def _draw(self, progress: float) -> list[ExampleRef]:
        shares = task_shares(self._sizes, self._config, progress)
        if self._adapts_shares:
            shares = uncertainty_shares(shares, [self._kept.mean(task_id) for task_id in range(len(self._sizes))])
        return self._draws.draw(self._length.batch_rows * _WINDOW_BATCHES, shares)

    def _select_examples(self) -> list[ExampleRef]:
        wanted = self._length.batch_rows * self._config.horizon
        candidates = self._draws.draw_each(wanted)
        entropies = (
            self._estimated_entropies(candidates) if self._config.amortised else self._exact_entropies(candidates)
        )
        tasks = [task_id for task_id, _ in candidates]
        places = select_examples(tasks, entropies, wanted, self._config.form, self._config.regression)
        return [candidates[place] for place in places]

    def _exact_entropies(self, refs: Sequence[ExampleRef]) -> list[Entropy]:
        return self._score([self._example(ref) for ref in refs])

    def _estimated_entropies(self, candidates: Sequence[ExampleRef]) -> list[Entropy]:
        budget = int(self._config.refresh * self._length.batch_rows * self._config.horizon)
        due = self._kept.stale(candidates, budget)
        self._kept.update(due, self._exact_entropies(due), typical=True)
        return [self._kept.estimate(ref) for ref in candidates]


def batch_by_length(
    refs: Sequence[ExampleRef], example: Callable[[ExampleRef], EncodedExample], max_rows: int, max_tokens: int
) -> list[list[ExampleRef]]:
    """The examples sorted by length and cut into batches of at most `max_rows` rows and `max_tokens` padded tokens.

    An example that alone is over a limit is a batch by itself. Examples of one length keep their order: mixed, they
    stay mixed.
    """
    batches: list[list[ExampleRef]] = []
    rows = 0
    for ref in sorted(refs, key=lambda ref: example(ref).longest):
        own = example(ref)
        rows += len(own.encodings)
        if not batches or rows > max_rows or rows * own.longest > max_tokens:
            batches.append([])
            rows = len(own.encodings)
        batches[-1].append(ref)
    return batches


def _copied(lists: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """A state must not change as the run goes on."""
    return [list(own) for own in lists]
