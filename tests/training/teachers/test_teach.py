"""Teaching: a run's examples get their teachers' answers, from the cache if they are there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from polytask.model.tasks import Kind
from polytask.training.data.examples import EncodedExample
from polytask.training.teachers import teach as teaching
from polytask.training.teachers.single_task import train_teacher
from polytask.training.teachers.teach import teach
from tests.training.conftest import Workshop
from tests.training.support import toy


def _teach(workshop: Workshop, cache: Path, seed: int = 3, **teachers: Any) -> tuple[list[list[EncodedExample]], str]:
    """The taught examples of a toy run, and what the console showed."""
    recipe = toy.recipe(workshop.folder / "backbone", teachers={"seeds": 1, "passes": 1} | teachers)
    recipe = recipe.model_copy(update={"seed": seed})
    shown = io.StringIO()
    taught = teach(
        recipe,
        workshop.data,
        workshop.examples,
        workshop.backbone,
        workshop.encoder,
        cache=cache,
        store=cache,
        console=Console(file=shown, width=200),
    )
    return taught, shown.getvalue()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of logits that the tests share."""
    return tmp_path_factory.mktemp("logits")


def test_every_example_of_every_kind_is_taught(workshop: Workshop, cache: Path) -> None:
    """Examples stay as they are, in order, with an answer in the shape of their logits, in two bytes a number."""
    taught, _ = _teach(workshop, cache)
    for own, told, before in zip(workshop.data, taught, workshop.examples, strict=True):
        assert told == before
        for example in told:
            rows = len(example.encodings[0].positions) if own.task.token_level else len(example.encodings)
            assert example.taught is not None
            assert example.taught.shape == (rows, own.task.num_outputs)
            assert example.taught.dtype == np.float16


def test_teachers_are_trained_once(workshop: Workshop, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run, also with another seed, has the same answers without training; more teachers train only the new ones."""
    first, _ = _teach(workshop, cache)
    trained: list[int] = []

    def train(teacher: Any, *rest: Any) -> Any:
        trained.append(teacher.recipe.seed)
        return train_teacher(teacher, *rest)

    monkeypatch.setattr(teaching, "train_teacher", train)
    second, shown = _teach(workshop, cache, seed=4)
    assert "7 teachers, 7 of them known" in shown
    assert not trained
    for one, other in zip((e for own in first for e in own), (e for own in second for e in own), strict=True):
        assert one.taught is not None
        assert other.taught is not None
        assert np.array_equal(one.taught, other.taught)
    _, shown = _teach(workshop, cache, seeds=2)
    assert trained == [1] * 7
    assert "teacher 7 of 7: answer, seed 1" in shown
    assert not list(cache.glob("*.training")), "nothing but logits is left"


def test_parts_are_put_together(workshop: Workshop, cache: Path) -> None:
    """Out of fold, too, every example has the answer of the one teacher that did not see it."""
    taught, shown = _teach(workshop, cache, out_of_fold=2)
    assert "14 teachers" in shown
    mood = next(own for own, data in zip(taught, workshop.data, strict=True) if data.task.kind is Kind.CLASSIFICATION)
    assert all(example.taught is not None and example.taught.sum() == pytest.approx(1, abs=2e-3) for example in mood)
