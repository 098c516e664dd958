"""Simple models: better than trivial answers where the data can be told apart, chosen without validation, and warned of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from polytask.model.tasks import Kind
from polytask.training.data.examples import TaskData
from polytask.training.evaluation import linear_heads
from polytask.training.evaluation.baselines import score_baseline
from polytask.training.evaluation.frozen_features import FrozenBackbone
from polytask.training.evaluation.linear_heads import linear_answers
from polytask.training.evaluation.metrics import score_answers
from polytask.training.evaluation.simple_models import (
    FROZEN,
    TFIDF,
    behind_warnings,
    simple_models,
    standard_error,
)
from polytask.training.evaluation.tfidf_features import TfidfFeatures, windows
from tests.training.conftest import Workshop

_CPU = torch.device("cpu")
_KINDS = [kind for kind in Kind if kind is not Kind.SPAN]


def _task_data(workshop: Workshop, kind: Kind) -> TaskData:
    return next(each for each in workshop.data if each.task.kind is kind)


def _with_selection(task_data: TaskData) -> TaskData:
    """The task with a quarter of its training examples to choose by."""
    return replace(task_data, train=task_data.train[::4] + task_data.train[1::2], selection=task_data.train[2::4])


@pytest.mark.parametrize("kind", _KINDS)
def test_every_kind_but_span_is_learnt(workshop: Workshop, kind: Kind) -> None:
    """TF-IDF is above the trivial answer in the main metric of tasks that single words decide, or perfect as it is."""
    task_data = _with_selection(_task_data(workshop, kind))
    model = next(model for model in simple_models([task_data]) if model.name == TFIDF)
    frozen = FrozenBackbone(workshop.backbone, workshop.encoder, _CPU)
    scores, trivial = model.score(frozen), score_baseline(task_data)
    assert list(scores) == list(trivial)
    metric = next(iter(scores))
    assert scores[metric] > trivial[metric] or scores[metric] == 1


@pytest.mark.parametrize("kind", _KINDS)
def test_frozen_states_have_a_score_for_every_kind_but_span(workshop: Workshop, kind: Kind) -> None:
    """The states of a tiny random backbone give the metrics of the kind, and leave torch's random numbers as they were."""
    task_data = _with_selection(_task_data(workshop, kind))
    before = torch.get_rng_state()
    frozen = FrozenBackbone(workshop.backbone, workshop.encoder, _CPU)
    model = next(model for model in simple_models([task_data]) if model.name == FROZEN)
    assert list(model.score(frozen)) == list(score_baseline(task_data))
    assert torch.equal(torch.get_rng_state(), before)


def test_spans_have_no_simple_model(workshop: Workshop) -> None:
    """Neither simple model is made for a span task."""
    assert not list(simple_models([_task_data(workshop, Kind.SPAN)]))


def test_the_mean_of_a_text_does_not_depend_on_its_batch(workshop: Workshop) -> None:
    """A text has the same mean beside longer texts as alone, and is cut at the task's length."""
    frozen = FrozenBackbone(workshop.backbone, workshop.encoder, _CPU)
    texts = ["the good cat", "a paris", "on it sat the bad cat . " * 4]
    together = torch.from_numpy(frozen.text_means(texts, 16))
    alone = torch.cat([torch.from_numpy(frozen.text_means([text], 16)) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    cut = frozen.text_means([texts[2], texts[2] * 2], 16)
    assert cut[0] == pytest.approx(cut[1], abs=1e-5)


@pytest.mark.parametrize("kind", _KINDS)
def test_nothing_is_chosen_on_validation(workshop: Workshop, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that choose are of selection examples alone, and validation examples in another order get the same answers."""
    task_data = _with_selection(_task_data(workshop, kind))
    scored = []

    def score(task: object, examples: object, *rest: object) -> dict[str, float]:
        scored.append(examples)
        return score_answers(task, examples, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(linear_heads, "score_answers", score)
    answers = linear_answers(task_data, task_data.train, TfidfFeatures())
    assert scored
    assert all(examples == task_data.selection for examples in scored)
    turned = replace(task_data, validation=task_data.validation[::-1])
    assert linear_answers(turned, turned.train, TfidfFeatures())[::-1] == answers


def test_without_examples_to_choose_by_there_is_one_fit(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is too small for a selection gets answers without any choice."""
    monkeypatch.setattr(linear_heads, "score_answers", None)
    task_data = replace(_task_data(workshop, Kind.CLASSIFICATION), selection=())
    assert len(linear_answers(task_data, task_data.train, TfidfFeatures())) == len(task_data.validation)


def test_large_tasks_are_learnt_from_a_part(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part holds as many candidates as the limit allows, always the same ones, and one query at least."""
    task_data = _task_data(workshop, Kind.RANKING)
    sizes = [len(example.input.candidates) for example in task_data.train]
    for most, expected in ((10, range(1, 11)), (0, [sizes[0]]), (sum(sizes), [sum(sizes)])):
        monkeypatch.setattr("polytask.training.evaluation.simple_models._MOST_ROWS", {TFIDF: most})
        (model,), (again,) = simple_models([task_data]), simple_models([task_data])
        assert model.train == again.train
        num_candidates = sum(len(example.input.candidates) for example in model.train)
        assert num_candidates in expected or len(model.train) == 1


def test_windows_see_neighbours_and_shapes() -> None:
    """Two words differ in their features if only their case, or only a neighbour, differs."""
    (lower,), (upper,) = windows(["paris"]), windows(["Paris"])
    assert set(lower) ^ set(upper) == {"s0=x", "s0=Xx", "s= x ", "s= Xx "}
    first, second = windows(["in", "paris"]), windows(["to", "paris"])
    assert list(first)[1] != list(second)[1]


def test_a_warning_names_the_task_that_is_behind(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task is named if it is below the better simple model by more than the larger standard error, and no other."""
    data = [_task_data(workshop, kind) for kind in (Kind.CLASSIFICATION, Kind.MULTILABEL, Kind.SPAN)]
    mood, topics, answer = (each.task.name for each in data)
    error = 0.1
    monkeypatch.setattr(
        "polytask.training.evaluation.simple_models.standard_error", lambda _, score: error * (score > 0.75)
    )
    references = {TFIDF: {mood: {"m": 0.8}, topics: {"m": 0.5}}, FROZEN: {mood: {"m": 0.7}, topics: {"m": 0.4}}}
    scores = {mood: {"m": 0.8 - 1.1 * error, "n": 0.0}, topics: {"m": 0.6}, answer: {"m": 0.1}}
    ((task, warning),) = behind_warnings(data, scores, references).items()
    assert task == mood
    assert warning.startswith(f"is behind a linear model ({TFIDF}): m ")
    assert "0.8000" in warning
    scores[mood]["m"] = 0.8 - 0.9 * error
    assert behind_warnings(data, scores, references) == {}


def test_the_standard_error_falls_with_the_number_of_examples(workshop: Workshop) -> None:
    """It is that of a share of right answers, or of a correlation, over the first split alone."""
    shares, values = _task_data(workshop, Kind.CLASSIFICATION), _task_data(workshop, Kind.REGRESSION)
    for size in (100, 400):
        splits = {"first": size, "second": 7}
        assert standard_error(replace(shares, splits=splits), 0.8) == pytest.approx(0.4 / size**0.5)
        assert standard_error(replace(values, splits=splits), 0.8) == pytest.approx(0.36 / size**0.5)
