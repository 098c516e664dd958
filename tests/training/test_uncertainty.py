"""Tests of training/uncertainty.py: the scores of MT-Uncertainty, as its definition says."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.network import Network
from model.tasks import Kind, Task
from tests import tiny
from tests.training.conftest import Workshop
from training.config import LengthConfig, SamplerConfig, SamplerName
from training.examples import EncodedExample
from training.sampling import Sampler, training_batches
from training.uncertainty import normalised_entropy, score_examples, uncertainty

TASKS = {task.kind: task for task in tiny.tasks()}
TWO = Task("two", Kind.CLASSIFICATION, 32, labels=("a", "b"))
THREE = Task("three", Kind.CLASSIFICATION, 32, labels=("a", "b", "c"))


def _entropy(task: Task, *probabilities: float) -> float:
    found = normalised_entropy(task, torch.tensor([probabilities]).log())
    assert found is not None
    return float(found)


def _mixed(workshop: Workshop, per_task: int = 4) -> list[EncodedExample]:
    return [example for own in workshop.examples for example in own[:per_task]]


def _scores(network: Network, workshop: Workshop, examples: list[EncodedExample], batch_rows: int = 8) -> list[float]:
    return score_examples(network, examples, workshop.encoder.pad_id, batch_rows)


@pytest.fixture
def network(workshop: Workshop) -> Network:
    """The toy network with heads that are sure of something, so that scores differ."""
    network = workshop.network()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for head in (network.heads.sentence, network.heads.token):
            head.weight.normal_(generator=generator)
    return network


# Entropy


def test_known_entropies() -> None:
    """(0.9, 0.1) has 0.469 of the greatest entropy of two labels, (0.98, 0.01, 0.01) 0.102 of that of three."""
    assert _entropy(TWO, 0.9, 0.1) == pytest.approx(0.469, abs=5e-4)
    assert _entropy(THREE, 0.98, 0.01, 0.01) == pytest.approx(0.102, abs=5e-4)
    assert _entropy(TWO, 0.5, 0.5) == pytest.approx(1)


@pytest.mark.parametrize("kind", Kind)
def test_no_preference_is_the_greatest_entropy(kind: Kind) -> None:
    """Logits that prefer nothing have entropy 1 in every kind but regression, which has none."""
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
    """The entropy of each kind is the mean over its decisions, each over the entropy of an even choice."""
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
    """Whatever the logits, the entropy is a number from 0 to 1."""
    entropy = normalised_entropy(THREE, torch.tensor([logits]))
    assert entropy is not None
    assert -1e-6 <= float(entropy) <= 1 + 1e-6


def test_a_single_choice_is_sure() -> None:
    """One candidate, or a context of one token, leaves nothing to doubt."""
    for kind, outputs in ((Kind.MULTIPLE_CHOICE, 1), (Kind.SPAN, 2)):
        entropy = normalised_entropy(TASKS[kind], torch.randn(1, outputs))
        assert entropy is not None
        assert float(entropy) == 0


# Scores over tasks


def test_scores_are_entropies_over_the_least_sure_tasks_mean() -> None:
    """U is the normalised entropy over the greatest task mean, so that this task's mean is 1."""
    scores = uncertainty([0, 0, 1, 1], [0.2, 0.4, 0.9, 0.7])
    assert scores == pytest.approx([0.25, 0.5, 1.125, 0.875])
    assert statistics.mean(scores[2:]) == pytest.approx(1)


def test_even_predictions_tie() -> None:
    """If every prediction is even, all candidates of all tasks score alike."""
    assert len(set(uncertainty([0, 1, 2, 0], [1.0, 1.0, 1.0, 1.0]))) == 1


def test_the_scale_keeps_the_order() -> None:
    """Dividing by the greatest mean changes no comparison between two candidates, of whatever tasks."""
    entropies = torch.rand(30, generator=torch.Generator().manual_seed(0)).tolist()
    scores = uncertainty([place % 4 for place in range(30)], entropies)
    by_score, by_entropy = (sorted(range(30), key=values.__getitem__) for values in (scores, entropies))
    assert by_score == by_entropy


@pytest.mark.parametrize("others", [[0.1, 0.5, 0.4], [0.1, 0.5, 0.4, 0.8]])
def test_regression_has_the_median_of_the_others(others: list[float]) -> None:
    """A regression example scores the median of all other scores, however many they are."""
    scores = uncertainty([0, *[1] * len(others), 0], [None, *others, None])
    assert scores[0] == scores[-1] == pytest.approx(statistics.median(scores[1:-1]))


def test_regression_alone_ties() -> None:
    """With nothing to compare to, regression examples all score the same; so do certain ones, at 0."""
    assert len(set(uncertainty([0, 0, 1], [None, None, None]))) == 1
    assert uncertainty([0, 1], [0.0, 0.0]) == [0.0, 0.0]


# Scoring with a network


def test_a_network_without_preference_scores_alike(workshop: Workshop) -> None:
    """With heads at zero every prediction is even, and all candidates of all seven kinds tie at 1."""
    network = workshop.network()
    with torch.no_grad():
        for parameter in network.heads.parameters():
            parameter.zero_()
    assert _scores(network, workshop, _mixed(workshop)) == pytest.approx([1.0] * 28)


def test_scores_belong_to_their_examples(network: Network, workshop: Workshop) -> None:
    """Scores come in the examples' order and do not depend on how they are batched."""
    examples = _mixed(workshop)
    scores = _scores(network, workshop, examples)
    assert len({round(score, 4) for score in scores}) > 15
    for batch_rows in (1, 5, 100):
        assert _scores(network, workshop, examples, batch_rows) == pytest.approx(scores, abs=1e-5)
    reversed_scores = _scores(network, workshop, examples[::-1])
    assert reversed_scores[::-1] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_has_no_say_and_is_kept(network: Network, workshop: Workshop, training: bool) -> None:
    """Scores are those of eval mode, twice the same, and the network is left in the mode that it was in."""
    examples = _mixed(workshop)
    expected = _scores(network.eval(), workshop, examples)
    network.train(training)
    assert [_scores(network, workshop, examples) for _ in range(2)] == [expected] * 2
    assert all(module.training == training for module in network.modules())


def test_scoring_leaves_no_trace(network: Network, workshop: Workshop) -> None:
    """Scoring draws no random number and touches no gradient and no weight."""
    network.train()
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    _scores(network, workshop, _mixed(workshop))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert bool((parameter.grad == 3.0).all())


@pytest.mark.parametrize("training", [True, False])
def test_the_four_least_sure_of_two_tasks_are_trained_on(network: Network, workshop: Workshop, training: bool) -> None:
    """With two tasks and four candidates of each, the batch is the four of the eight that score highest."""
    network.train(training)
    two = [[replace(example, task_id=task_id) for example in workshop.examples[task_id]] for task_id in (0, 1)]
    shown: list[list[EncodedExample]] = []

    def score(found: list[EncodedExample]) -> list[float]:
        shown.append(found)
        return _scores(network, workshop, found)

    config = SamplerConfig(name=SamplerName.MT_UNCERTAINTY)
    length = LengthConfig(examples=1, batch_rows=4, batch_tokens=1000)
    batches = training_batches(Sampler(two, config, 0), config, length, score)  # type: ignore[arg-type]
    for batch in islice(batches, 5):
        candidates = shown[-1]
        assert sorted(example.task_id for example in candidates) == [0] * 4 + [1] * 4
        scores = dict(zip(map(id, candidates), _scores(network.eval(), workshop, candidates), strict=True))
        network.train(training)
        chosen = {id(example) for example in batch}
        assert len(chosen) == 4
        assert min(scores[key] for key in chosen) >= max(scores[key] for key in scores if key not in chosen)
