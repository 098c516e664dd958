"""Sampling: batches, MT-Uncertainty and the state from which sampling resumes."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.model.encoding import Encoding
from polytask.training.data.examples import EncodedExample
from polytask.training.loop.sampling import (
    _WINDOW_BATCHES,
    BatchSampler,
    EntropyCache,
    EntropyFunction,
    ExampleRef,
    ShuffledExamples,
    batch_by_length,
)
from polytask.training.loop.shares import bounded_shares, planned_draws, task_shares
from polytask.training.loop.uncertainty import Entropy
from polytask.training.recipes.schema import LengthConfig, RegressionPolicy, SamplerConfig, SamplerName

PROPORTIONAL = SamplerConfig()
UNIFORM = SamplerConfig(name=SamplerName.UNIFORM)
TEMPERATURE = SamplerConfig(name=SamplerName.TEMPERATURE, temperature=2.0)
ANNEALED = SamplerConfig(name=SamplerName.ANNEALED)
EXACT = SamplerConfig(name=SamplerName.MT_UNCERTAINTY)
STEERED = SamplerConfig(name=SamplerName.TASK_UNCERTAINTY)
AMORTISED = SamplerConfig(name=SamplerName.MT_UNCERTAINTY, amortised=True)
BY_SHARE = (PROPORTIONAL, UNIFORM, TEMPERATURE, ANNEALED)
EVERY = (*BY_SHARE, STEERED, EXACT, AMORTISED)
LENGTH = LengthConfig(examples=1, batch_rows=8, batch_tokens=96)
ROOMY = LengthConfig(examples=1, batch_rows=8, batch_tokens=10_000)

Examples = list[list[EncodedExample]]


def _name(config: SamplerConfig) -> str:
    return f"{config.name.value}{'-amortised' * config.amortised}"


def _example(task_id: int, *lengths: int, target: object = 0) -> EncodedExample:
    rows = tuple(Encoding((0,) * length, (0,) * length) for length in lengths)
    return EncodedExample(task_id, rows, target)


def _tasks(*sizes: int, length: int | None = None) -> Examples:
    """Examples of 3 to 22 tokens, or all of `length`; an example's target is its index in its task."""
    return [
        [_example(t, length or 3 + (7 * i + t) % 20, target=i) for i in range(size)] for t, size in enumerate(sizes)
    ]


def _ref(example: EncodedExample) -> ExampleRef:
    return example.task_id, example.target


def _entropy(ref: ExampleRef) -> float:
    """A fixed entropy of each example, most of them different."""
    return (37 * ref[1] + 11 * ref[0]) % 101 / 101


class _Scorer:
    """Fixed entropies, or none for the tasks of `regression`; records the examples that it scored."""

    def __init__(self, entropy: Callable[[ExampleRef], Entropy] = _entropy, regression: tuple[int, ...] = ()) -> None:
        self._entropy, self._regression = entropy, regression
        self.calls: list[list[ExampleRef]] = []

    def __call__(self, examples: Sequence[EncodedExample]) -> list[Entropy]:
        self.calls.append([_ref(example) for example in examples])
        return [self.of(_ref(example)) for example in examples]

    def of(self, ref: ExampleRef) -> Entropy:
        return None if ref[0] in self._regression else self._entropy(ref)


def _never(_: Sequence[EncodedExample]) -> list[Entropy]:
    raise AssertionError("only MT-Uncertainty scores its candidates")


def _batches(
    examples: Examples,
    config: SamplerConfig,
    length: LengthConfig = LENGTH,
    score: EntropyFunction | None = None,
    seed: int = 0,
) -> BatchSampler:
    uncertain = config.name is SamplerName.MT_UNCERTAINTY
    return BatchSampler(examples, config, length, seed, score or (_Scorer() if uncertain else _never))


def _next(
    batches: BatchSampler, entropy: Callable[[ExampleRef], Entropy] = _entropy, progress: float = 0.0
) -> list[ExampleRef]:
    """The next batch, observed like in training if the sampler needs entropies."""
    batch = batches.next(progress)
    if batches.needs_entropies:
        batches.observe(batch, [entropy(_ref(example)) for example in batch])
    return [_ref(example) for example in batch]


def _kept(num_tasks: int) -> EntropyCache:
    return EntropyCache(num_tasks, random.Random(0))  # noqa: S311 - sampling, not cryptography


# Shares


def test_task_uncertainty_follows_what_training_sees() -> None:
    """Tasks are drawn by size, then by the mean entropies seen in training; the network scores nothing for it."""
    batches = _batches(_tasks(40, 40, 40), STEERED)
    unsure = {0: 0.9, 1: 0.3, 2: 0.3}
    drawn = [[ref[0] for ref in _next(batches, lambda ref: unsure[ref[0]])] for _ in range(_WINDOW_BATCHES * 20)]
    early, late = (Counter(chain.from_iterable(part)) for part in (drawn[:_WINDOW_BATCHES], drawn[_WINDOW_BATCHES:]))
    assert early[0] / early.total() == pytest.approx(1 / 3, abs=0.1)
    assert late[0] / late.total() == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize("config", BY_SHARE, ids=_name)
def test_a_small_task_is_drawn_as_planned(config: SamplerConfig) -> None:
    """Beside 10,000 times as many examples a task of ten is drawn a hundred times, and the plan says so."""
    sizes, num_draws = (100_000, 10), 4000
    length = LENGTH.model_copy(update={"examples": num_draws})
    planned = planned_draws(sizes, config, num_draws)
    assert planned is not None
    assert sum(planned) == pytest.approx(num_draws, abs=2)
    assert planned[1] >= 100
    batches = _batches([[_example(0, 5)] * sizes[0], [_example(1, 5, target=i) for i in range(10)]], config, length)
    drawn = Counter[int]()
    while drawn.total() < num_draws:
        drawn.update(example.task_id for example in batches.next(drawn.total() / num_draws))
    assert drawn[1] == pytest.approx(planned[1], abs=4 * math.sqrt(planned[1]))


@pytest.mark.parametrize("progress", [0, 0.5, 1])
@pytest.mark.parametrize("config", BY_SHARE, ids=_name)
def test_tasks_come_by_their_shares(config: SamplerConfig, progress: float) -> None:
    """Over whole windows each task's frequency in the batches is within three standard deviations of its share."""
    sizes, total = (5, 20, 75, 300), 20 * LENGTH.batch_rows * _WINDOW_BATCHES
    batches, counts = _batches(_tasks(*sizes), config, seed=5), Counter[int]()
    while counts.total() < total:
        counts.update(task_id for task_id, _ in _next(batches, progress=progress))
    shares = bounded_shares(task_shares(sizes, config, progress), sizes, config, 1)
    for task_id, share in enumerate(shares):
        sigma = math.sqrt(total * share * (1 - share))
        assert abs(counts[task_id] - total * share) < 3 * sigma


# Draws


def test_every_example_comes_once_in_a_round() -> None:
    """A task's examples come in rounds, each exactly once, in a new order each time."""
    draws = ShuffledExamples([7], seed=1)
    rounds = [[index for _, index in draws.draw(7, [1.0])] for _ in range(20)]
    assert all(sorted(one) == list(range(7)) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 15


def test_each_task_has_its_own_round() -> None:
    """No example comes a second time before all others of its task came once."""
    seen: list[list[int]] = [[], []]
    for task_id, index in ShuffledExamples([3, 50], seed=1).draw(400, [0.2, 0.8]):
        seen[task_id].append(index)
    for size, own in zip((3, 50), seen, strict=True):
        whole = len(own) // size * size
        for start in range(0, whole, size):
            assert sorted(own[start : start + size]) == list(range(size))


def test_each_task_can_be_drawn_equally_often() -> None:
    """`draw_each` draws the same number of every task and mixes them."""
    draws = ShuffledExamples([3, 50, 7], seed=1)
    drawn = [[task_id for task_id, _ in draws.draw_each(4)] for _ in range(10)]
    assert all(Counter(one) == {0: 4, 1: 4, 2: 4} for one in drawn)
    assert len({tuple(one) for one in drawn}) == 10


@pytest.mark.parametrize("config", EVERY, ids=_name)
def test_a_task_without_examples_is_refused(config: SamplerConfig) -> None:
    """A task without examples is an error at once."""
    with pytest.raises(ValueError, match="task 1 has no training examples"):
        _batches([*_tasks(3), []], config)


# Batches by share

_EXAMPLES = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=6), max_size=40).map(
    lambda found: [_example(0, *lengths, target=place) for place, lengths in enumerate(found)]
)


def _cut(examples: Sequence[EncodedExample], max_rows: int, max_tokens: int) -> list[list[EncodedExample]]:
    refs = [(0, index) for index in range(len(examples))]
    batches = batch_by_length(refs, lambda ref: examples[ref[1]], max_rows, max_tokens)
    return [[examples[index] for _, index in batch] for batch in batches]


@given(_EXAMPLES, st.integers(1, 12), st.integers(1, 200))
def test_batches_keep_to_their_limits(examples: list[EncodedExample], max_rows: int, max_tokens: int) -> None:
    """Each example is in one batch; a batch is within the limits, or one example that exceeds them."""
    batches = _cut(examples, max_rows, max_tokens)
    assert sorted(example.target for batch in batches for example in batch) == list(range(len(examples)))
    for batch in batches:
        rows = sum(len(example.encodings) for example in batch)
        tokens = rows * max(example.longest for example in batch)
        assert len(batch) == 1 or (rows <= max_rows and tokens <= max_tokens)


@given(_EXAMPLES, st.integers(1, 12), st.integers(1, 200))
def test_batches_are_of_similar_length_and_full(examples: list[EncodedExample], max_rows: int, max_tokens: int) -> None:
    """Batches ascend in length, and each ends only where the next example would exceed a limit."""
    batches = _cut(examples, max_rows, max_tokens)
    lengths = [example.longest for batch in batches for example in batch]
    assert lengths == sorted(lengths)
    for batch, following in pairwise(batches):
        rows = sum(len(example.encodings) for example in [*batch, following[0]])
        assert rows > max_rows or rows * following[0].longest > max_tokens


@pytest.mark.parametrize("config", BY_SHARE, ids=_name)
def test_batches_mix_tasks_and_not_lengths(config: SamplerConfig) -> None:
    """Nearly every batch has several tasks and rows of similar length, and short and long batches alternate."""
    source = _batches(_tasks(60, 60, 60), config)
    batches = [source.next(0.0) for _ in range(100)]
    assert sum(len({example.task_id for example in batch}) > 1 for batch in batches) > 90
    spreads = [max(e.longest for e in batch) - min(e.longest for e in batch) for batch in batches]
    assert sum(spreads) / len(spreads) < 2
    lengths = [batch[0].longest for batch in batches]
    assert sum(one > other for one, other in pairwise(lengths)) > 25
    assert sum(one < other for one, other in pairwise(lengths)) > 25


@pytest.mark.parametrize("config", [UNIFORM, EXACT.model_copy(update={"horizon": 20})], ids=_name)
def test_equal_lengths_mix_tasks(config: SamplerConfig) -> None:
    """If all examples have the same length, batches mix tasks as they were drawn."""
    batches = _batches(_tasks(60, 60, 60, length=10), config, ROOMY, _Scorer(lambda _: 1.0))
    assert all(len({task_id for task_id, _ in _next(batches)}) > 1 for _ in range(20))


@pytest.mark.parametrize("config", BY_SHARE, ids=_name)
def test_nothing_that_is_drawn_is_lost(config: SamplerConfig) -> None:
    """The batches of one window contain exactly the examples drawn for it."""
    size = LENGTH.batch_rows * _WINDOW_BATCHES // 10
    batches, drawn = _batches(_tasks(size), config), Counter[ExampleRef]()
    while drawn.total() < 10 * size:
        drawn.update(_next(batches))
    assert drawn == {(0, index): 10 for index in range(size)}


# MT-Uncertainty


def test_the_most_uncertain_candidates_make_the_batch() -> None:
    """Of b candidates of each task, the b with the highest scores are trained on, and the rest are dropped."""
    scorer = _Scorer()
    batches = _batches(_tasks(30, 50), EXACT, ROOMY, scorer)
    for _ in range(20):
        batch = _next(batches)
        candidates = scorer.calls[-1]
        assert Counter(task_id for task_id, _ in candidates) == {0: 8, 1: 8}
        best = sorted(map(_entropy, candidates))[-8:]
        assert sorted(map(_entropy, batch)) == best
    assert len(scorer.calls) == 20


@pytest.mark.parametrize("config", [EXACT, AMORTISED], ids=_name)
def test_equal_scores_prefer_no_task(config: SamplerConfig) -> None:
    """If all candidates have the same score, tasks are trained on equally often."""
    batches = _batches(_tasks(20, 20, 20, length=10), config, ROOMY, _Scorer(lambda _: 1.0))
    counts = Counter(task_id for _ in range(30) for task_id, _ in _next(batches, lambda _: 1.0))
    assert all(40 <= counts[task_id] <= 120 for task_id in range(3))  # 80 expected


@pytest.mark.parametrize("horizon", [1, 3, 7])
def test_one_choice_gives_as_many_batches_as_the_horizon(horizon: int) -> None:
    """One selection from `horizon` times the candidates gives `horizon` full batches of the best."""
    scorer = _Scorer()
    batches = _batches(_tasks(90, 90), EXACT.model_copy(update={"horizon": horizon}), ROOMY, scorer)
    for choices in (1, 2, 3):
        found = [_next(batches) for _ in range(horizon)]
        assert [len(batch) for batch in found] == [8] * horizon
        assert [len(call) for call in scorer.calls] == [2 * 8 * horizon] * choices
        best = sorted(map(_entropy, scorer.calls[-1]))[-8 * horizon :]
        assert sorted(_entropy(ref) for batch in found for ref in batch) == best


def test_the_chosen_candidates_keep_to_the_batch_limits() -> None:
    """Selected examples with many rows fill several batches before new candidates are drawn."""
    scorer = _Scorer()
    batches = _batches([[_example(0, *[10] * 5, target=i) for i in range(20)]], EXACT, ROOMY, scorer)
    assert [len(_next(batches)) for _ in range(8)] == [1] * 8
    assert [len(call) for call in scorer.calls] == [8]


@pytest.mark.parametrize("config", [EXACT, AMORTISED], ids=_name)
@pytest.mark.parametrize("rows", [2, 8])
def test_regression_gets_its_share_of_the_batches(config: SamplerConfig, rows: int) -> None:
    """One task of five without entropies makes a fifth of the examples, even if that is less than one per batch."""
    scorer, length = _Scorer(regression=(2,)), ROOMY.model_copy(update={"batch_rows": rows})
    batches = _batches(_tasks(200, 200, 200, 200, 200), config, length, scorer)
    found = [task_id for _ in range(400) for task_id, _ in _next(batches, scorer.of)]
    sigma = math.sqrt(len(found) * 0.2 * 0.8)
    assert abs(found.count(2) - 0.2 * len(found)) < 3 * sigma


def test_regression_at_the_median_comes_rarely_in_a_crowd() -> None:
    """With the median as score, regression is selected only if the better half of the others cannot fill a batch."""
    config = EXACT.model_copy(update={"regression": RegressionPolicy.MEDIAN})
    crowd = _batches(_tasks(200, 200, 200, 200), config, ROOMY, _Scorer(regression=(2,)))
    assert not any(task_id == 2 for _ in range(50) for task_id, _ in _next(crowd))
    pair = _batches(_tasks(100, 100), config, ROOMY, _Scorer(regression=(1,)))
    assert all(Counter(task_id for task_id, _ in _next(pair)) == {0: 4, 1: 4} for _ in range(50))


# Amortised


def test_cached_entropies_move_with_their_task() -> None:
    """A cached entropy is shifted with the mean of its task, within 0 to 1."""
    kept = _kept(2)
    kept.update([(0, 0), (1, 0)], [0.3, 0.4], typical=True)
    kept.update([(0, 1)], [0.9], typical=True)  # the mean goes from 0.3 to 0.6
    assert kept.estimate((0, 0)) == pytest.approx(0.6)
    assert kept.estimate((0, 1)) == 0.9
    assert kept.estimate((1, 0)) == 0.4
    kept.update([(0, 2)], [0.0], typical=True)  # and on to 0.4
    assert kept.estimate((0, 0)) == pytest.approx(0.4)
    assert kept.estimate((0, 1)) == pytest.approx(0.7)
    kept.update([(0, index) for index in range(3, 300)], [0.9] * 297, typical=True)
    assert kept.estimate((0, 1)) == 1.0
    assert kept.estimate((0, 2)) == pytest.approx(0.5)


def test_unseen_examples_are_expected_to_be_like_the_last_of_their_task() -> None:
    """The estimate of an unseen example is one of its task's last 256 entropies, or None without any."""
    kept = _kept(2)
    kept.update([(0, index) for index in range(300)], [index / 300 for index in range(300)], typical=True)
    found = {kept.estimate((0, 300 + index)) for index in range(2000)}
    assert found <= {index / 300 for index in range(44, 300)}
    assert len(found) > 200
    assert kept.estimate((1, 0)) is None


def test_selected_examples_do_not_represent_their_task() -> None:
    """Entropies of selected examples are cached, but do not change the estimates of others."""
    kept = _kept(1)
    kept.update([(0, 0)], [0.3], typical=True)
    kept.update([(0, 1)], [0.9], typical=False)
    assert [kept.estimate((0, index)) for index in (0, 1, 2)] == [0.3, 0.9, 0.3]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9))), st.sets(st.integers(0, 9)), st.integers(0, 40))
def test_unseen_examples_are_scored_first(refs: list[ExampleRef], seen: set[int], count: int) -> None:
    """Stale examples are distinct, unseen ones come before seen ones, and none is of a task without entropies."""
    kept = _kept(3)
    kept.update([(2, 0), *((0, index) for index in sorted(seen))], [None, *[0.5] * len(seen)], typical=True)
    due, able = kept.stale(refs, count), {ref for ref in refs if ref[0] != 2}
    unseen = {ref for ref in able if ref[0] == 1 or ref[1] not in seen}
    assert len(due) == len(set(due)) == min(count, len(able))
    assert set(due) <= able
    assert set(due) <= unseen or unseen <= set(due)


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("refresh", [0.0, 0.3, 0.5, 1.0, 1.7])
def test_few_examples_are_scored_per_step(refresh: float, horizon: int) -> None:
    """In `horizon` batches about `refresh` times `horizon` batches are scored, never more."""
    scorer = _Scorer()
    config = AMORTISED.model_copy(update={"refresh": refresh, "horizon": horizon})
    batches = _batches(_tasks(100, 100, 100), config, ROOMY, scorer)
    for _ in range(10):
        scorer.calls.clear()
        for _ in range(horizon):
            _next(batches)
        asked = sum(map(len, scorer.calls))
        assert refresh * 8 * horizon - 1 < asked <= refresh * 8 * horizon


@pytest.mark.parametrize("refresh", [0.25, 0.5])
def test_no_example_is_scored_twice_before_all_were_scored_once(refresh: float) -> None:
    """If all examples are candidates, no scored one is scored again while another is not scored."""
    scorer, unknown = _Scorer(), {(task_id, index) for task_id in range(4) for index in range(8)}
    batches = _batches(_tasks(8, 8, 8, 8), AMORTISED.model_copy(update={"refresh": refresh}), ROOMY, scorer)
    for _ in range(30):
        batch = _next(batches)
        (asked,) = map(set, scorer.calls)
        assert asked <= unknown or unknown <= asked
        unknown -= asked | set(batch)
        scorer.calls.clear()
    assert not unknown


def test_regression_is_scored_once() -> None:
    """A task without entropies does not use up the other tasks' refreshes."""
    scorer = _Scorer(regression=(1,))
    batches = _batches(_tasks(50, 50, 50), AMORTISED.model_copy(update={"refresh": 1.0}), ROOMY, scorer)
    for _ in range(20):
        _next(batches, scorer.of)
    assert any(task_id == 1 for task_id, _ in scorer.calls[0])
    assert not any(task_id == 1 for call in scorer.calls[1:] for task_id, _ in call)
    assert [len(call) for call in scorer.calls] == [8] * 20


def test_observed_entropies_are_enough() -> None:
    """Without refreshing, the entropies seen in training suffice to find the uncertain examples."""
    batches = _batches(_tasks(8, 8), AMORTISED.model_copy(update={"refresh": 0.0}), ROOMY, _Scorer())
    unsure = {(task_id, index) for task_id in range(2) for index in range(0, 8, 2)}
    found = [set(_next(batches, lambda ref: 0.9 if ref in unsure else 0.1)) for _ in range(60)]
    assert found[0] != unsure
    assert found[-20:] == [unsure] * 20


def test_observing_does_not_change_other_estimates() -> None:
    """Observing a selected batch does not change the estimates of other examples of its tasks."""
    batches = _batches(_tasks(50, 50), AMORTISED, score=_Scorer())
    batch = batches.next(0.0)
    before = batches.state()["kept"]
    batches.observe(batch, [1.0] * len(batch))
    after = batches.state()["kept"]
    assert after["recent"] == before["recent"]
    trained = [list(_ref(example)) for example in batch]
    assert [own for own in after["kept"] if own[:2] not in trained] == [
        own for own in before["kept"] if own[:2] not in trained
    ]
    assert [own[2] for own in after["kept"] if own[:2] in trained] == [1.0] * len(trained)


@given(st.integers(0, 1000), st.integers(1, 4), st.sampled_from([(), (1,), (0, 1, 2)]))
def test_fully_refreshed_the_amortised_form_equals_the_exact_one(
    seed: int, horizon: int, regression: tuple[int, ...]
) -> None:
    """With every candidate refreshed, the amortised batches equal the exact ones."""
    scorer, found = _Scorer(regression=regression), []
    for config in (EXACT, AMORTISED):
        whole = config.model_copy(update={"refresh": 3.0, "horizon": horizon})
        batches = _batches(_tasks(20, 30, 40), whole, LENGTH, scorer, seed)
        found.append([_next(batches, scorer.of) for _ in range(12)])
    assert found[0] == found[1]


def test_two_samplers_need_entropies() -> None:
    """Only task-uncertainty and amortised MT-Uncertainty need the entropies of each batch."""
    assert [config for config in EVERY if _batches(_tasks(3), config).needs_entropies] == [STEERED, AMORTISED]


# States


@pytest.mark.parametrize("config", EVERY, ids=_name)
def test_one_seed_gives_one_sequence_of_batches(config: SamplerConfig) -> None:
    """The same seed gives the same batches in the same order, and another seed others."""

    def first(seed: int) -> list[list[ExampleRef]]:
        batches = _batches(_tasks(30, 50), config, seed=seed)
        return [_next(batches) for _ in range(80)]

    assert first(3) == first(3)
    assert first(3) != first(4)


@given(st.sampled_from(EVERY), st.integers(1, 5), st.integers(0, 70), st.integers(0, 1000))
def test_a_state_continues_exactly(config: SamplerConfig, horizon: int, before: int, seed: int) -> None:
    """Stopped after any batch and restored from JSON, every sampler gives the batches that it would have given."""
    examples, scorer = _tasks(9, 30, 20), _Scorer(regression=(2,))
    early = _Scorer(lambda ref: 0.5 * _entropy(ref), regression=(2,))
    whole = config.model_copy(update={"horizon": horizon})
    score = scorer if config in (EXACT, AMORTISED) else _never
    batches = _batches(examples, whole, LENGTH, score, seed)
    for done in range(before):
        _next(batches, early.of, done / 100)
    state = batches.state()
    written = json.dumps(state)
    after = [_next(batches, scorer.of, 0.7) for _ in range(60)]
    for kept in (state, json.loads(written)):
        restored = _batches(examples, whole, LENGTH, score, seed=99)
        restored.restore(kept)
        assert [_next(restored, scorer.of, 0.7) for _ in range(60)] == after
        assert restored.state() == batches.state()
    assert json.dumps(state) == written  # it is of its moment, whoever goes on from it


def test_a_state_holds_a_batch_that_is_not_observed_yet() -> None:
    """A state taken between `next` and `observe` continues exactly, too."""
    batches, restored = (_batches(_tasks(9, 30), AMORTISED, seed=seed) for seed in (0, 99))
    batch = batches.next(0.0)
    restored.restore(json.loads(json.dumps(batches.state())))
    for one in (batches, restored):
        one.observe(batch, [0.1] * len(batch))
    assert [_next(batches) for _ in range(20)] == [_next(restored) for _ in range(20)]
