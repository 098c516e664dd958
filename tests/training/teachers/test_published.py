"""A published version as a teacher."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from rich.console import Console

from polytask.model.tasks import Kind
from polytask.model_store.load import load
from polytask.model_store.manifest import Golden
from polytask.model_store.save import NewVersion, save
from polytask.training.data.examples import TaskData, encode_examples
from polytask.training.publishing.publish import goldens
from polytask.training.recipes.schema import RecipeError
from polytask.training.teachers.answers import Answers, answer_of
from polytask.training.teachers.published import version_answers
from polytask.training.teachers.single_task import example_logits
from tests.training.conftest import Workshop


@pytest.fixture(scope="module")
def version(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published version of the toy network before training."""
    network = workshop.network()
    names = [task.name for task in network.tasks]
    golden: tuple[Golden, ...] = goldens(network, workshop.encoder, workshop.data)
    content = NewVersion(
        network=network,
        tokenizer_json=workshop.backbone.tokenizer.to_str(),
        base=None,
        precision=torch.float32,
        metrics={name: {"f1": 0.5} for name in names},
        baselines={name: {"f1": 0.1} for name in names},
        goldens=golden,
        provenance={"recipe": ""},
        card="# Toy\n",
    )
    return save(tmp_path_factory.mktemp("store"), "toy", content)


def _ask(
    version: Path, workshop: Workshop, data: Sequence[TaskData], tokenizer: tokenizers.Tokenizer | None = None
) -> tuple[Sequence[Sequence[Answers] | None], str]:
    """The version's answers, and what the console showed."""
    shown, by_name = io.StringIO(), dict(zip((own.task.name for own in workshop.data), workshop.examples, strict=True))
    examples = [by_name.get(own.task.name, workshop.examples[0]) for own in data]
    answers = version_answers(
        version, data, examples, tokenizer or workshop.backbone.tokenizer, Console(file=shown, width=300)
    )
    return answers, shown.getvalue()


def _of(workshop: Workshop, kind: Kind) -> TaskData:
    return next(own for own in workshop.data if own.task.kind is kind)


def test_a_version_without_word_shapes_teaches_a_task_with_them(version: Path, workshop: Workshop) -> None:
    """It reads its own rows, in which no word has the segment of a shape."""
    own = _of(workshop, Kind.TAGGING)
    with_shapes = replace(own, task=replace(own.task, word_shapes=True))
    examples = encode_examples(workshop.encoder, with_shapes.task, 0, own.train)
    tokenizer, console = workshop.backbone.tokenizer, Console(quiet=True)
    (expected,), _ = _ask(version, workshop, [own])
    (found,) = version_answers(version, [with_shapes], [examples], tokenizer, console)
    assert found is not None
    assert expected is not None
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_its_answers_are_those_that_it_serves(version: Path, workshop: Workshop) -> None:
    """A version teaches, for every kind, what it answers itself."""
    answers, _ = _ask(version, workshop, workshop.data)
    network = load(version).network
    for task_id, (own, examples, found) in enumerate(zip(workshop.data, workshop.examples, answers, strict=True)):
        assert found is not None
        logits = example_logits(network, task_id, examples, workshop.encoder.pad_id)
        for one, expected in zip(found, logits, strict=True):
            assert one == pytest.approx(answer_of(own.task, expected), abs=1e-3), own.task.kind


def test_tasks_that_it_does_not_have_learn_without_it(version: Path, workshop: Workshop) -> None:
    """A task of another name has no teacher, which is said; if none of the names is there, the recipe is refused."""
    new = replace(workshop.data[0], task=replace(workshop.data[0].task, name="new"))
    answers, shown = _ask(version, workshop, [new, workshop.data[1]])
    assert answers[0] is None
    assert answers[1] is not None
    assert f"{version} does not teach new, which it does not have" in shown
    with pytest.raises(RecipeError, match=r"has no task of the recipe; it has mood, topics"):
        _ask(version, workshop, [new])


def test_other_labels_are_refused(version: Path, workshop: Workshop) -> None:
    """Labels that differ, also in their order, are an error that names task and version."""
    own = _of(workshop, Kind.CLASSIFICATION)
    turned = replace(own, task=replace(own.task, labels=own.task.labels[::-1]))
    with pytest.raises(RecipeError, match=rf"'mood' of {version} is another task"):
        _ask(version, workshop, [turned])


def test_a_regression_may_have_another_range_or_form(version: Path, workshop: Workshop) -> None:
    """A value is taught in terms of the recipe's task: as a value, or as a place in its own range."""
    own = _of(workshop, Kind.REGRESSION)
    assert own.task.value_range is not None
    low, high = own.task.value_range
    places = np.array(_ask(version, workshop, [own])[0][0]).ravel()
    raw = np.array(_ask(version, workshop, [replace(own, task=replace(own.task, raw_output=True))])[0][0]).ravel()
    assert raw == pytest.approx(low + places * (high - low), abs=1e-2)
    wider = replace(own.task, value_range=(low, low + 2 * (high - low)))
    assert np.array(_ask(version, workshop, [replace(own, task=wider)])[0][0]).ravel() == pytest.approx(
        places / 2, abs=1e-3
    )


def test_other_tokens_teach_texts_but_no_tokens(version: Path, workshop: Workshop) -> None:
    """Of a version with another tokenizer, tasks on whole texts learn, tasks on tokens are refused."""
    other = tokenizers.Tokenizer.from_str(workshop.backbone.tokenizer.to_str())
    other.add_tokens(["paris cat"])
    assert _ask(version, workshop, [_of(workshop, Kind.RANKING)], other)[0][0] is not None
    with pytest.raises(RecipeError, match=r"'entities' of .* has other tokens"):
        _ask(version, workshop, [_of(workshop, Kind.TAGGING)], other)
