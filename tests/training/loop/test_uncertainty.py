"""Uncertainty: the entropies and scores of MT-Uncertainty by their definitions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polytask.model.network import Network
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import EncodedExample
from polytask.training.loop.losses import batch_examples
from polytask.training.loop.sampling import BatchSampler
from polytask.training.loop.uncertainty import (
    Entropy,
    batch_entropies,
    example_entropies,
    normalised_entropy,
    select_examples,
    task_means,
    uncertainty,
)
from polytask.training.recipes.schema import LengthConfig, RegressionPolicy, SamplerConfig, SamplerName, UncertaintyForm
from tests.support import tiny
from tests.training.conftest import Workshop

TASKS = {task.kind: task for task in tiny.tasks()}
TWO = Task("two", Kind.CLASSIFICATION, 32, labels=("a", "b"))
THREE = Task("three", Kind.CLASSIFICATION, 32, labels=("a", "b", "c"))
PAPER, RELEASED = UncertaintyForm.PAPER, UncertaintyForm.RELEASED
SHARE, MEDIAN = RegressionPolicy.SHARE, RegressionPolicy.MEDIAN


def _entropy(task: Task, *probabilities: float) -> float:
    found = normalised_entropy(task, torch.tensor([probabilities]).log())
    assert found is not None
    return float(found)


def _mixed(workshop: Workshop, per_task: int = 4) -> list[EncodedExample]:
    return [example for own in workshop.examples for example in own[:per_task]]


def _entropies(
    network: Network, workshop: Workshop, examples: list[EncodedExample], batch_rows: int = 8
) -> list[Entropy]:
    return example_entropies(network, examples, workshop.encoder.pad_id, batch_rows)


def _close(found: list[Entropy], expected: list[Entropy], tolerance: float = 1e-5) -> bool:
    """Whether two lists are nearly equal, None only with None."""
    return len(found) == len(expected) and all(
        one is other is None or (one is not None and other is not None and abs(one - other) <= tolerance)
        for one, other in zip(found, expected, strict=True)
    )


@pytest.fixture
def network(workshop: Workshop) -> Network:
    """The toy network with heads of different certainty, so that scores differ."""
    network = workshop.network()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for head in (network.heads.sentence, network.heads.token):
            head.weight.normal_(generator=generator)
    return network


# Entropy


def test_known_entropies() -> None:
    """(0.9, 0.1) has 0.469 of the entropy of two even labels, (0.98, 0.01, 0.01) 0.102 of that of three."""
    assert _entropy(TWO, 0.9, 0.1) == pytest.approx(0.469, abs=5e-4)
    assert _entropy(THREE, 0.98, 0.01, 0.01) == pytest.approx(0.102, abs=5e-4)
    assert _entropy(TWO, 0.5, 0.5) == pytest.approx(1)


@pytest.mark.parametrize("kind", Kind)
def test_no_preference_is_the_greatest_entropy(kind: Kind) -> None:
    """Even logits have entropy 1 in every kind but regression, which has none."""
    task = TASKS[kind]
    single_row = kind in {Kind.CLASSIFICATION, Kind.MULTILABEL, Kind.REGRESSION}
    logits = torch.zeros(1 if single_row else 5, task.num_outputs)
    entropy = normalised_entropy(task, logits)
    if kind is Kind.REGRESSION:
        assert entropy is None
    else:
        assert entropy is not None
        assert entropy.shape == ()
        assert float(entropy) == pytest.approx(1)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (Kind.CLASSIFICATION, (1, 3)),
        (Kind.MULTILABEL, (1, 3)),
        (Kind.RANKING, (4, 1)),
        (Kind.MULTIPLE_CHOICE, (4, 1)),
        (Kind.TAGGING, (6, 5)),
        (Kind.SPAN, (6, 2)),
    ],
)
def test_each_kind_has_the_mean_entropy_of_its_decisions(kind: Kind, shape: tuple[int, int]) -> None:
    """Each kind's entropy is the mean over its decisions, each divided by that of an even choice."""
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(int(shape[0])))
    match kind:
        case Kind.CLASSIFICATION | Kind.TAGGING:
            decisions = logits.softmax(1).tolist()
        case Kind.MULTIPLE_CHOICE | Kind.SPAN:
            decisions = logits.softmax(0).T.tolist()
        case _:
            decisions = [[p, 1 - p] for p in logits.sigmoid().flatten().tolist()]
    expected = [-sum(p * math.log(p) for p in own) / math.log(len(own)) for own in decisions]
    entropy = normalised_entropy(TASKS[kind], logits)
    assert entropy is not None
    assert float(entropy) == pytest.approx(statistics.mean(expected), abs=1e-5)


@given(st.lists(st.floats(-1e5, 1e5, width=32), min_size=3, max_size=3))
def test_entropy_is_between_zero_and_one(logits: list[float]) -> None:
    """For all logits the entropy is between 0 and 1."""
    entropy = normalised_entropy(THREE, torch.tensor([logits]))
    assert entropy is not None
    assert -1e-6 <= float(entropy) <= 1 + 1e-6


def test_a_single_choice_is_sure() -> None:
    """A single candidate, or a context of one token, has entropy 0."""
    for kind, outputs in ((Kind.MULTIPLE_CHOICE, 1), (Kind.SPAN, 2)):
        entropy = normalised_entropy(TASKS[kind], torch.randn(1, outputs))
        assert entropy is not None
        assert float(entropy) == 0


# Scores over tasks

_CANDIDATES = st.lists(st.tuples(st.integers(0, 3), st.none() | st.floats(0, 1)), max_size=30)
"""A task and an entropy or None each, in any mix."""


def test_task_means_are_over_what_has_an_entropy() -> None:
    """A task's mean leaves out None, and a task with nothing else has no mean."""
    assert task_means([0, 1, 0, 2, 1, 0], [0.2, 0.9, 0.4, None, 0.7, None]) == pytest.approx({0: 0.3, 1: 0.8})
    assert task_means([], []) == {}


def test_both_forms_by_hand() -> None:
    """With means 0.3 and 0.8, the paper divides by 0.8, and the released code multiplies by 0.3 / 0.8 and 0.8 / 0.8."""
    tasks, entropies = [0, 0, 1, 1, 2], [0.2, 0.4, 0.9, 0.7, None]
    assert _close(uncertainty(tasks, entropies, PAPER), [0.25, 0.5, 1.125, 0.875, None], 1e-12)
    assert _close(uncertainty(tasks, entropies, RELEASED), [0.075, 0.15, 0.9, 0.7, None], 1e-12)


def test_the_forms_select_differently() -> None:
    """A sure task's one hard example comes before a hard task's easy ones in the paper's form only."""
    tasks, entropies = [0, 0, 0, 1, 1, 1], [0.6, 0.0, 0.0, 0.5, 0.5, 0.8]
    assert select_examples(tasks, entropies, 2, PAPER, SHARE) == [0, 5]  # 0.6 of mean 0.2, 0.8 of mean 0.6
    assert select_examples(tasks, entropies, 2, RELEASED, SHARE) == [3, 5]  # 0.6 * 0.2 / 0.6 = 0.2 < 0.5


@pytest.mark.parametrize("form", UncertaintyForm)
def test_even_predictions_tie(form: UncertaintyForm) -> None:
    """If all predictions are even, all candidates have score 1; if all are certain, 0."""
    assert uncertainty([0, 1, 2, 0], [1.0, 1.0, 1.0, 1.0], form) == [1.0] * 4
    assert uncertainty([0, 1], [0.0, 0.0], form) == [0.0, 0.0]


def test_a_surer_task_scores_less_by_the_known_ratio() -> None:
    """Beside a task of even predictions, one at (0.9, 0.1) scores 0.469, or 0.469 squared in the released form."""
    sure = _entropy(TWO, 0.9, 0.1)
    assert uncertainty([0, 1], [sure, 1.0], PAPER)[0] == pytest.approx(0.469, abs=5e-4)
    assert uncertainty([0, 1], [sure, 1.0], RELEASED)[0] == pytest.approx(0.469**2, abs=5e-4)


@given(_CANDIDATES, st.sampled_from(UncertaintyForm))
def test_scores_keep_the_order_within_a_task(candidates: list[tuple[int, Entropy]], form: UncertaintyForm) -> None:
    """Scores keep the order of entropies within a task, in the paper's form over all tasks; None stays None."""
    tasks, entropies = [task for task, _ in candidates], [entropy for _, entropy in candidates]
    means = task_means(tasks, entropies)
    greatest = max(means.values(), default=0.0) or 1.0
    factors = {task: (means[task] if form is RELEASED else 1) / greatest for task in means}
    expected = [None if entropy is None else entropy * factors[task] for task, entropy in candidates]
    assert _close(uncertainty(tasks, entropies, form), expected, 1e-9)


# Choice


@given(_CANDIDATES, st.integers(0, 40), st.sampled_from(UncertaintyForm), st.sampled_from(RegressionPolicy))
def test_the_requested_number_is_selected(
    candidates: list[tuple[int, Entropy]], count: int, form: UncertaintyForm, regression: RegressionPolicy
) -> None:
    """`count` distinct indices are selected, or all, and none has a lower score than one left out."""
    tasks, entropies = [task for task, _ in candidates], [entropy for _, entropy in candidates]
    chosen = select_examples(tasks, entropies, count, form, regression)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, len(candidates))
    assert set(chosen) <= set(range(len(candidates)))
    scores = uncertainty(tasks, entropies, form)
    left = [score for index, score in enumerate(scores) if score is not None and index not in chosen]
    assert all(score >= max(left, default=0) for index in chosen if (score := scores[index]) is not None)


@given(_CANDIDATES, st.integers(0, 40))
def test_regression_shares_as_chance_gives(candidates: list[tuple[int, Entropy]], count: int) -> None:
    """With a share, the selected regression examples are those among the first `count` candidates."""
    entropies = [entropy for _, entropy in candidates]
    chosen = select_examples([task for task, _ in candidates], entropies, count, PAPER, SHARE)
    blind = [index for index, entropy in enumerate(entropies[:count]) if entropy is None]
    assert [index for index in chosen if entropies[index] is None] == blind


@pytest.mark.parametrize("others", [[0.1, 0.5, 0.4], [0.1, 0.5, 0.4, 0.8, 0.2]])
def test_regression_at_the_median_is_in_the_middle(others: list[float]) -> None:
    """With the median, a regression example comes after all with higher scores and before all with lower ones."""
    tasks, entropies = [0, *[1] * len(others)], [None, *others]
    above = sum(other > statistics.median(others) for other in others)
    assert 0 not in select_examples(tasks, entropies, above, PAPER, MEDIAN)
    assert 0 in select_examples(tasks, entropies, above + 1, PAPER, MEDIAN)


@pytest.mark.parametrize("regression", RegressionPolicy)
def test_of_equals_the_first_are_selected(regression: RegressionPolicy) -> None:
    """Among equal scores, or of regression alone, the first indices are selected."""
    assert select_examples([0, 0, 1, 1], [None] * 4, 3, PAPER, regression) == [0, 1, 2]
    assert select_examples([0, 1, 0, 1], [0.4] * 4, 3, PAPER, regression) == [0, 1, 2]


# Entropies of a network


def test_a_network_without_preference_is_unsure_of_all(workshop: Workshop) -> None:
    """With zero heads all candidates of kinds with an entropy have entropy 1."""
    network = workshop.network()
    with torch.no_grad():
        for parameter in network.heads.parameters():
            parameter.zero_()
    examples = _mixed(workshop)
    kinds = [network.tasks[example.task_id].kind for example in examples]
    expected = [None if kind is Kind.REGRESSION else 1.0 for kind in kinds]
    assert _close(_entropies(network, workshop, examples), expected)


def test_entropies_belong_to_their_examples(network: Network, workshop: Workshop) -> None:
    """Entropies are in the examples' order and do not depend on batching."""
    examples = _mixed(workshop)
    entropies = _entropies(network, workshop, examples)
    assert len({round(entropy, 4) for entropy in entropies if entropy is not None}) > 15
    for batch_rows in (1, 5, 100):
        assert _close(_entropies(network, workshop, examples, batch_rows), entropies)
    assert _close(_entropies(network, workshop, examples[::-1])[::-1], entropies)
    assert _entropies(network, workshop, []) == []


def test_a_training_step_has_the_same_entropies(network: Network, workshop: Workshop) -> None:
    """The entropies from a training step's outputs equal those of a separate forward, without gradients."""
    network.eval()
    batch = batch_examples(_mixed(workshop), network.tasks, workshop.encoder.pad_id)
    outputs = network(batch.batch, network.condition())
    assert outputs.sentence.requires_grad
    assert _close(batch_entropies(network, outputs, batch), _entropies(network, workshop, list(batch.examples)))


@pytest.mark.parametrize("training", [True, False])
def test_entropies_are_those_of_eval_mode(network: Network, workshop: Workshop, training: bool) -> None:
    """Entropies are those of eval mode, and the network's mode is restored."""
    examples = _mixed(workshop)
    expected = _entropies(network.eval(), workshop, examples)
    network.train(training)
    assert [_entropies(network, workshop, examples) for _ in range(2)] == [expected] * 2
    assert all(module.training == training for module in network.modules())


def test_scoring_leaves_no_trace(network: Network, workshop: Workshop) -> None:
    """Scoring draws no random number and changes no gradient and no weight."""
    network.train()
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    _entropies(network, workshop, _mixed(workshop))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert bool((parameter.grad == 3.0).all())


@pytest.mark.parametrize("form", UncertaintyForm)
@pytest.mark.parametrize("training", [True, False])
def test_the_four_least_sure_of_two_tasks_are_trained_on(
    network: Network, workshop: Workshop, training: bool, form: UncertaintyForm
) -> None:
    """With two tasks and four candidates of each, the batch has the four with the highest scores."""
    network.train(training)
    two = [[replace(example, task_id=task_id) for example in workshop.examples[task_id]] for task_id in (0, 1)]
    shown: list[list[EncodedExample]] = []

    def score(found: Sequence[EncodedExample]) -> list[Entropy]:
        shown.append(list(found))
        return _entropies(network, workshop, list(found))

    config = SamplerConfig(name=SamplerName.MT_UNCERTAINTY, form=form)
    batches = BatchSampler(two, config, LengthConfig(examples=1, batch_rows=4, batch_tokens=1000), 0, score)
    for _ in range(5):
        chosen = {id(example) for example in batches.next(0.0)}
        (candidates,) = shown
        tasks = [example.task_id for example in candidates]
        assert sorted(tasks) == [0] * 4 + [1] * 4
        scores = uncertainty(tasks, _entropies(network.eval(), workshop, candidates), form)
        by_example = {id(example): entropy or 0.0 for example, entropy in zip(candidates, scores, strict=True)}
        assert len(chosen) == 4
        least = min(by_example[key] for key in chosen)
        assert all(score <= least for key, score in by_example.items() if key not in chosen)
        network.train(training)
        shown.clear()
