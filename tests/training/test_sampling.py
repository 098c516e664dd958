"""Tests of training/sampling.py."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.encoding import Encoding
from training.config import LengthConfig, SamplerConfig, SamplerName
from training.examples import EncodedExample
from training.sampling import _WINDOW_BATCHES, Sampler, cut_by_length, task_shares, training_batches

PROPORTIONAL = SamplerConfig()
TEMPERATURE = SamplerConfig(name=SamplerName.TEMPERATURE, temperature=2.0)
UNCERTAINTY = SamplerConfig(name=SamplerName.MT_UNCERTAINTY)
LENGTH = LengthConfig(examples=1, batch_rows=8, batch_tokens=96)

Examples = list[list[EncodedExample]]


def _example(task_id: int, *lengths: int, target: object = 0) -> EncodedExample:
    rows = tuple(Encoding((0,) * length, (0,) * length) for length in lengths)
    return EncodedExample(task_id, rows, target)


def _tasks(*sizes: int) -> Examples:
    """Examples of 3 to 22 tokens; an example's target is its place in its task."""
    return [[_example(t, 3 + (7 * i + t) % 20, target=i) for i in range(size)] for t, size in enumerate(sizes)]


def _no_score(_: Sequence[EncodedExample]) -> list[float]:
    raise AssertionError("only MT-Uncertainty scores its candidates")


def _batches(examples: Examples, config: SamplerConfig, seed: int = 0) -> Iterator[list[EncodedExample]]:
    score = (lambda found: [e.target + 0.1 * e.task_id for e in found]) if config is UNCERTAINTY else _no_score
    return training_batches(Sampler(examples, config, seed), config, LENGTH, score)


# Shares


def test_proportional_shares_are_those_of_the_sizes() -> None:
    """A task of half the examples is drawn half of the time."""
    assert task_shares([10, 30, 40], PROPORTIONAL) == [0.125, 0.375, 0.5]


def test_temperature_flattens_the_shares() -> None:
    """Shares are n ** (1 / tau), normalised; tau 1 is proportional, and a cap bounds n."""
    assert task_shares([100, 400, 900], TEMPERATURE) == pytest.approx([10 / 60, 20 / 60, 30 / 60])
    flat = SamplerConfig(name=SamplerName.TEMPERATURE, temperature=1.0)
    assert task_shares([10, 30], flat) == task_shares([10, 30], PROPORTIONAL)
    capped = SamplerConfig(name=SamplerName.TEMPERATURE, temperature=2.0, cap=400)
    assert task_shares([100, 400, 900], capped) == pytest.approx([10 / 50, 20 / 50, 20 / 50])


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=30), st.floats(1, 20), st.integers(1, 10**6))
def test_shares_are_probabilities(sizes: list[int], temperature: float, cap: int) -> None:
    """Whatever the sizes, shares add up to 1, and a larger task never has the smaller share."""
    config = SamplerConfig(name=SamplerName.TEMPERATURE, temperature=temperature, cap=cap)
    for shares in (task_shares(sizes, config), task_shares(sizes, PROPORTIONAL)):
        assert math.isclose(sum(shares), 1)
        ordered = [share for _, share in sorted(zip(sizes, shares, strict=True))]
        assert ordered == sorted(ordered)
        assert min(shares) > 0


@pytest.mark.parametrize("config", [PROPORTIONAL, TEMPERATURE])
def test_tasks_are_drawn_by_their_shares(config: SamplerConfig) -> None:
    """Over many draws each task's frequency is within three standard deviations of its share."""
    examples, draws = _tasks(5, 20, 75, 300), 20_000
    sampler = Sampler(examples, config, seed=5)
    counts = Counter(example.task_id for example in sampler.draw(draws))
    for task_id, share in enumerate(task_shares([len(own) for own in examples], config)):
        sigma = math.sqrt(draws * share * (1 - share))
        assert abs(counts[task_id] - draws * share) < 3 * sigma


# Rounds


def test_every_example_comes_once_in_a_round() -> None:
    """A task's examples come in rounds: each exactly once, in a new order each time."""
    sampler = Sampler(_tasks(7), PROPORTIONAL, seed=1)
    rounds = [[example.target for example in sampler.draw(7)] for _ in range(20)]
    assert all(sorted(one) == list(range(7)) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 15


def test_each_task_has_its_own_round() -> None:
    """However unequal the tasks are, no example comes a second time before all of its task came once."""
    sampler = Sampler(_tasks(3, 50), TEMPERATURE, seed=1)
    seen: list[list[int]] = [[], []]
    for example in sampler.draw(400):
        seen[example.task_id].append(example.target)
    for size, own in zip((3, 50), seen, strict=True):
        whole = len(own) // size * size
        for start in range(0, whole, size):
            assert sorted(own[start : start + size]) == list(range(size))


def test_each_task_can_be_drawn_alike() -> None:
    """`draw_each` takes as many of every task, whatever their sizes."""
    sampler = Sampler(_tasks(3, 50, 7), UNCERTAINTY, seed=1)
    assert [example.task_id for example in sampler.draw_each(4)] == [0] * 4 + [1] * 4 + [2] * 4


def test_a_task_without_examples_is_refused() -> None:
    """A task of which no example fits is an error at once, not an endless search."""
    with pytest.raises(ValueError, match="task 1 has no training examples"):
        Sampler([*_tasks(3), []], PROPORTIONAL, seed=0)


# Batches

_EXAMPLES = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=6), max_size=40).map(
    lambda found: [_example(0, *lengths, target=place) for place, lengths in enumerate(found)]
)


@given(_EXAMPLES, st.integers(1, 12), st.integers(1, 200))
def test_batches_keep_to_their_limits(examples: list[EncodedExample], max_rows: int, max_tokens: int) -> None:
    """Each example is in one batch; each batch keeps to rows and padded tokens, or is one example that cannot."""
    batches = cut_by_length(examples, max_rows, max_tokens)
    assert sorted(example.target for batch in batches for example in batch) == list(range(len(examples)))
    for batch in batches:
        rows = sum(len(example.encodings) for example in batch)
        tokens = rows * max(example.longest for example in batch)
        assert len(batch) == 1 or (rows <= max_rows and tokens <= max_tokens)


@given(_EXAMPLES, st.integers(1, 12), st.integers(1, 200))
def test_batches_are_of_similar_length_and_full(examples: list[EncodedExample], max_rows: int, max_tokens: int) -> None:
    """Batches go up in length, and none ends before its next example would break a limit."""
    batches = cut_by_length(examples, max_rows, max_tokens)
    lengths = [example.longest for batch in batches for example in batch]
    assert lengths == sorted(lengths)
    for batch, following in pairwise(batches):
        rows = sum(len(example.encodings) for example in [*batch, following[0]])
        assert rows > max_rows or rows * following[0].longest > max_tokens


@pytest.mark.parametrize("config", [PROPORTIONAL, TEMPERATURE])
def test_batches_mix_tasks_and_not_lengths(config: SamplerConfig) -> None:
    """Nearly every batch holds several tasks, its rows differ little in length, and short and long batches alternate."""
    batches = list(islice(_batches(_tasks(60, 60, 60), config), 100))
    assert sum(len({example.task_id for example in batch}) > 1 for batch in batches) > 90
    spreads = [max(e.longest for e in batch) - min(e.longest for e in batch) for batch in batches]
    assert sum(spreads) / len(spreads) < 2
    lengths = [batch[0].longest for batch in batches]
    assert sum(one > other for one, other in pairwise(lengths)) > 25


@pytest.mark.parametrize("config", [PROPORTIONAL, TEMPERATURE])
def test_nothing_that_is_drawn_is_lost(config: SamplerConfig) -> None:
    """The batches of one window hold what was drawn for it: ten rounds of a task are ten times each example."""
    size = LENGTH.batch_rows * _WINDOW_BATCHES // 10
    batches, drawn = _batches(_tasks(size), config), Counter[int]()
    while drawn.total() < 10 * size:
        drawn.update(example.target for example in next(batches))
    assert drawn == dict.fromkeys(range(size), 10)


@pytest.mark.parametrize("config", [PROPORTIONAL, TEMPERATURE, UNCERTAINTY], ids=lambda config: config.name.value)
def test_one_seed_gives_one_sequence_of_batches(config: SamplerConfig) -> None:
    """The same seed gives the same batches in the same order, another seed others."""

    def first(seed: int) -> list[list[EncodedExample]]:
        return list(islice(_batches(_tasks(30, 50), config, seed), 80))

    assert first(3) == first(3)
    assert first(3) != first(4)


def test_the_most_uncertain_candidates_make_the_batch() -> None:
    """Of b candidates of each task, the b that score highest over all tasks are trained on and the rest dropped."""
    shown: list[list[EncodedExample]] = []

    def score(found: Sequence[EncodedExample]) -> list[float]:
        shown.append(list(found))
        return [math.sin(7 * e.target + e.task_id) for e in found]

    length = LengthConfig(examples=1, batch_rows=4, batch_tokens=1000)
    batches = training_batches(Sampler(_tasks(30, 50), UNCERTAINTY, 0), UNCERTAINTY, length, score)
    for batch in islice(batches, 20):
        candidates = shown[-1]
        assert Counter(e.task_id for e in candidates) == {0: 4, 1: 4}
        best = sorted(candidates, key=lambda e: math.sin(7 * e.target + e.task_id))[-4:]
        assert sorted(batch, key=id) == sorted(best, key=id)
    assert len(shown) == 20


def test_equal_scores_prefer_no_task() -> None:
    """Where all candidates score the same, every task is trained on, and one seed gives one choice."""
    examples = [[_example(task_id, 10, target=i) for i in range(20)] for task_id in range(3)]
    length = LengthConfig(examples=1, batch_rows=8, batch_tokens=1000)

    def drawn() -> list[list[int]]:
        batches = training_batches(Sampler(examples, UNCERTAINTY, 0), UNCERTAINTY, length, lambda e: [1.0] * len(e))
        return [[example.task_id for example in batch] for batch in islice(batches, 30)]

    counts = Counter(task_id for batch in drawn() for task_id in batch)
    assert all(40 <= counts[task_id] <= 120 for task_id in range(3))  # 80 expected
    assert drawn() == drawn()


def test_the_chosen_candidates_keep_to_the_batch_limits() -> None:
    """Chosen examples of many rows are spread over several batches before new candidates are drawn."""
    examples = [[_example(0, *[10] * 5, target=i) for i in range(20)]]
    length = LengthConfig(examples=1, batch_rows=8, batch_tokens=1000)
    calls = []

    def score(found: Sequence[EncodedExample]) -> list[float]:
        calls.append(len(found))
        return [0.0] * len(found)

    batches = list(islice(training_batches(Sampler(examples, UNCERTAINTY, 0), UNCERTAINTY, length, score), 8))
    assert [len(batch) for batch in batches] == [1] * 8
    assert calls == [8]
