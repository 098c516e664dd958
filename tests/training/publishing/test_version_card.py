"""Version card: a row for each task, and how the version was trained."""

from __future__ import annotations

import re
from dataclasses import replace

from polytask.training.evaluation.baselines import DESCRIPTIONS
from polytask.training.publishing.version_card import render_card
from tests.training.conftest import Workshop

_ENDING = "trained on 480 examples, as planned"


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def test_every_task_has_a_row(workshop: Workshop) -> None:
    """Each task's row has kind, main metric, its value and baseline, sizes, source and licence."""
    data = [
        replace(
            task_data,
            config=task_data.config.model_copy(update={"source": f"{task_data.task.name} archive", "licence": "CC0"}),
        )
        for task_data in workshop.data
    ]
    scores = {
        task_data.task.name: {"main": 0.5 + index / 100, "other": 0.9, "text_f1": 0.25}
        for index, task_data in enumerate(data)
    }
    baselines = {task_data.task.name: {"main": index / 100, "other": 0.8} for index, task_data in enumerate(data)}
    references = {"TF-IDF": {name: {"main": 0.25, "other": 0.1} for name in list(scores)[1:]}}
    card = render_card(workshop.recipe, data, scores, baselines, _ENDING, {}, {}, references=references)
    rows = [_cells(line) for line in card.partition("\nTexts")[0].splitlines() if line.startswith("|")]
    header, _, *body = rows
    assert {len(row) for row in rows} == {10}
    assert [dict(zip(header, row, strict=True)) for row in body] == [
        {
            "task": f"`{task_data.task.name}`",
            "kind": str(task_data.task.kind),
            "metric": "main",
            "validation": f"{0.5 + index / 100:.4f}",
            "trivial baseline": f"{index / 100:.4f}",
            "TF-IDF": "0.2500" if index else "-",
            "which is trivial": DESCRIPTIONS[task_data.task.kind],
            "train / validation": f"{len(task_data.train)} / {len(task_data.validation)}",
            "data": f"{task_data.task.name} archive",
            "licence": "CC0",
        }
        for index, task_data in enumerate(data)
    ]


def test_the_card_shows_tagging_on_running_text(workshop: Workshop) -> None:
    """Each tagging task has a row with its rule for words, the share of words found, and both scores."""
    scores = {task_data.task.name: {"main": 0.5, "text_f1": 0.25} for task_data in workshop.data}
    (row,) = re.findall(
        r"(?m)^\| `entities` \| (`.*)$", render_card(workshop.recipe, workshop.data, scores, scores, _ENDING, {}, {})
    )
    assert _cells(row) == ["`unicode`", "100.0%", "main 0.5000", "0.2500"]


def test_the_card_names_heads_that_say_one_label(workshop: Workshop) -> None:
    """What is wrong with a task's head stands in the card, behind the task's name."""
    scores = {task_data.task.name: {"main": 0.5, "text_f1": 0.25} for task_data in workshop.data}
    card = render_card(workshop.recipe, workshop.data, scores, scores, _ENDING, {"mood": "says 'good' in 99%"}, {})
    assert "\nWarning: `mood` says 'good' in 99%.\n" in card


def test_the_card_says_how_it_was_trained(workshop: Workshop) -> None:
    """The card's text has name, backbone, sampler, seed and number of examples."""
    scores = {task_data.task.name: {"main": 0.5, "text_f1": 0.25} for task_data in workshop.data}
    card = render_card(workshop.recipe, workshop.data, scores, scores, _ENDING, {}, {})
    assert card.startswith("# toy\n")
    for part in (
        "7 tasks",
        workshop.recipe.backbone.name,
        "Trained on 480 examples, as planned (",
        "sampler: proportional, seed 3",
    ):
        assert part in card


def test_the_card_counts_the_split_of_its_figure(workshop: Workshop) -> None:
    """With several validation splits the card gives the size of the first, which the main metric is over."""
    task_data = replace(workshop.data[0], splits={"near": 20, "far": 4})
    scores = {task_data.task.name: {"main": 0.5}}
    assert f"| {len(task_data.train)} / 20 |" in render_card(
        workshop.recipe, [task_data], scores, scores, _ENDING, {}, {}
    )


def test_the_card_names_rows_that_were_left_out(workshop: Workshop) -> None:
    """Rows that a recipe skips are counted in the card; without any it says nothing about them."""
    task_data = workshop.data[0]
    scores = {task_data.task.name: {"main": 0.5}}
    assert "left out" not in render_card(workshop.recipe, [task_data], scores, scores, _ENDING, {}, {})
    card = render_card(workshop.recipe, [replace(task_data, bad_rows=1234)], scores, scores, _ENDING, {}, {})
    assert f"left out: `{task_data.task.name}` 1,234." in card
