"""Preparation of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console
from tokenizers import normalizers

from polytask.model.encoding import InputEncoder
from polytask.model.tasks import Kind
from polytask.model.word_shapes import FIRST_SHAPE_SEGMENT
from polytask.training.backbone import with_word_shapes
from polytask.training.data.examples import READING
from polytask.training.preparation import load_data, prepare
from polytask.training.recipes.schema import RecipeError
from tests.support import tiny
from tests.training.conftest import Workshop
from tests.training.support import toy


def test_tasks_keep_the_recipes_order(workshop: Workshop) -> None:
    """A task's index in the recipe is its id."""
    tasks = workshop.recipe.tasks[::-1]
    data = load_data(workshop.recipe.model_copy(update={"tasks": tasks}), workshop.folder / "data", Console(quiet=True))
    assert [task_data.task.name for task_data in data] == [task.name for task in tasks]


def test_a_run_resumes_only_by_the_same_rules_of_reading(workshop: Workshop) -> None:
    """The fingerprint of a run has the number of the rules by which its files became examples."""
    fields = toy.fields(workshop.recipe.backbone.name)
    prepared = prepare(workshop.recipe, toy.to_toml(fields), workshop.folder / "data", Console(quiet=True))
    assert prepared.fingerprint(1)["reading"] == prepared.provenance["reading"] == READING


def test_taggers_of_an_uncased_backbone_read_the_shapes_of_words(workshop: Workshop) -> None:
    """By default where capitals are lost and there are segments, for tagging alone; the recipe can say otherwise."""
    backbone, encoder = workshop.backbone, workshop.encoder
    cased, unsegmented = tiny.tokenizer(), replace(backbone.config, num_segments=0)
    cased.normalizer = normalizers.Sequence([])
    shapes = {
        task.kind: with_word_shapes(task, None, backbone.config, encoder).word_shapes
        for task in (each.task for each in workshop.data)
    }
    assert [kind for kind, has_shapes in shapes.items() if has_shapes] == [Kind.TAGGING]
    (task,) = (each.task for each in workshop.data if each.task.kind is Kind.TAGGING)
    assert not with_word_shapes(task, None, backbone.config, InputEncoder(cased)).word_shapes
    assert not with_word_shapes(task, None, unsegmented, encoder).word_shapes
    assert not with_word_shapes(task, False, backbone.config, encoder).word_shapes
    assert with_word_shapes(task, True, backbone.config, InputEncoder(cased)).word_shapes
    with pytest.raises(RecipeError, match="word_shapes need a backbone with 2 segments"):
        with_word_shapes(task, True, unsegmented, encoder)


def test_a_run_trains_a_network_with_shapes(workshop: Workshop) -> None:
    """The network has a table for them, and the rows of the tagging task name them."""
    fields = toy.fields(workshop.recipe.backbone.name)
    prepared = prepare(workshop.recipe, toy.to_toml(fields), workshop.folder / "data", Console(quiet=True))
    assert prepared.network.config.word_shapes
    for task, examples in zip(prepared.network.tasks, prepared.examples, strict=True):
        segments = {segment for each in examples for row in each.encodings for segment in row.segment_ids}
        assert (max(segments) >= FIRST_SHAPE_SEGMENT) == (task.kind is Kind.TAGGING)
