"""Tests of training/card.py."""

from __future__ import annotations

from dataclasses import replace

from polytask.training.evaluation.baselines import DESCRIPTIONS
from polytask.training.publishing.version_card import render_card
from tests.training.conftest import Workshop


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def test_every_task_has_a_row(workshop: Workshop) -> None:
    """Each task's row says kind, main metric, its value and the trivial one, sizes, source and licence."""
    data = [
        replace(own, config=own.config.model_copy(update={"source": f"{own.task.name} archive", "licence": "CC0"}))
        for own in workshop.data
    ]
    scores = {own.task.name: {"main": 0.5 + place / 100, "other": 0.9} for place, own in enumerate(data)}
    baselines = {own.task.name: {"main": place / 100, "other": 0.8} for place, own in enumerate(data)}
    card = render_card(workshop.recipe, data, scores, baselines)
    rows = [_cells(line) for line in card.splitlines() if line.startswith("|")]
    header, _, *body = rows
    assert {len(row) for row in rows} == {9}
    assert [dict(zip(header, row, strict=True)) for row in body] == [
        {
            "task": f"`{own.task.name}`",
            "kind": str(own.task.kind),
            "metric": "main",
            "validation": f"{0.5 + place / 100:.4f}",
            "trivial baseline": f"{place / 100:.4f}",
            "which is": DESCRIPTIONS[own.task.kind],
            "train / validation": f"{len(own.train)} / {len(own.validation)}",
            "data": f"{own.task.name} archive",
            "licence": "CC0",
        }
        for place, own in enumerate(data)
    ]


def test_the_card_says_how_it_was_trained(workshop: Workshop) -> None:
    """Name, backbone, sampler, seed and examples are in the text."""
    scores = {own.task.name: {"main": 0.5} for own in workshop.data}
    card = render_card(workshop.recipe, workshop.data, scores, scores)
    assert card.startswith("# toy\n")
    for part in ("7 tasks", workshop.recipe.backbone.name, "480 drawn examples", "sampler: proportional, seed 3"):
        assert part in card


def test_the_card_counts_the_split_of_its_figure(workshop: Workshop) -> None:
    """With several validation splits the size beside the main metric is that of the first, which it is over."""
    own = replace(workshop.data[0], splits={"near": 20, "far": 4})
    scores = {own.task.name: {"main": 0.5}}
    assert f"| {len(own.train)} / 20 |" in render_card(workshop.recipe, [own], scores, scores)
